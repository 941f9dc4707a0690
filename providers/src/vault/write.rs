//! Searching, pushing and deleting in KV engines.

use lockstep_crds::store::vault::KvVersion;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::kv::{self, Current, Kind, Place};
use super::{CONCURRENCY, FIELD, Vault};
use crate::push::{is_there, merged, not_ours};
use crate::secret_bytes::WipedJson;
use crate::{Deleted, Error, Find, Found, MANAGED_BY, Push, Pushed, Result, Target};

/// Names that one search may see. A Secret holds 1 MiB: nobody has a use for more.
const MOST_NAMES: usize = 20_000;

impl Vault {
    /// All remote secrets below a path that have the name and the custom metadata.
    pub(super) async fn search(&self, query: &Find) -> Result<Vec<Found>> {
        if self.version == KvVersion::V1 && !query.tags.is_empty() {
            let why = "dataFrom.find.tags: they are custom metadata, which KV version 1 does not have";
            return Err(Error::Unsupported(why.into()));
        }
        let mut found = self.list_below(self.folder(query.path.as_deref())?).await?;
        found.retain(|place| query.admits_name(self.name_of(place)));
        if !query.tags.is_empty() {
            let tags = crate::in_order(found.iter().map(|place| self.tags(place)).collect(), CONCURRENCY).await;
            let tags = tags.into_iter().collect::<Result<Vec<_>>>()?;
            let mut tags = tags.iter();
            found.retain(|_| {
                tags.next().and_then(Option::as_ref).is_some_and(|t| query.admits_tags(|tag| t.get(tag).map(String::as_str)))
            });
        }
        let found = found.into_iter().map(|place| Found {
            name: self.name_of(&place).to_owned(),
            key: place.key(self.version),
            payload: None,
        });
        Ok(found.collect())
    }

    fn folder(&self, path: Option<&str>) -> Result<Place> {
        let path = path.map(|p| p.trim_matches('/')).filter(|p| !p.is_empty());
        match (path, &self.mount) {
            (Some(path), Some(mount)) if path != mount => kv::place("find.path", Some(mount), self.version, path),
            (_, Some(mount)) => Ok(Place { mount: mount.clone(), rest: String::new() }),
            (Some(path), None) if !path.contains('/') => {
                kv::check_segments("find.path", path)?;
                Ok(Place { mount: path.to_owned(), rest: String::new() })
            }
            (Some(path), None) => kv::place("find.path", None, self.version, path),
            (None, None) => {
                Err(Error::invalid("find.path", format!("names no mount path, and the store's {FIELD}.path is not set")))
            }
        }
    }

    /// The path below the mount: what a name is matched with, and what the remote secret is called in the answer.
    fn name_of<'a>(&self, place: &'a Place) -> &'a str {
        &place.rest
    }

    async fn list_below(&self, top: Place) -> Result<Vec<Place>> {
        let mut folders = vec![top];
        let mut secrets: Vec<Place> = Vec::new();
        let mut seen = 0;
        while !folders.is_empty() {
            let lists = crate::in_order(folders.iter().map(|folder| self.list(folder)).collect(), CONCURRENCY).await;
            let mut deeper = Vec::new();
            for (folder, names) in folders.iter().zip(lists) {
                for name in names? {
                    seen += 1;
                    match name.strip_suffix('/') {
                        Some(name) => deeper.push(folder.below(name)),
                        None => secrets.push(folder.below(&name)),
                    }
                }
            }
            if seen > MOST_NAMES {
                let why = format!("there are more than {MOST_NAMES} names below it; name a folder with fewer");
                return Err(Error::invalid("find.path", why));
            }
            folders = deeper;
        }
        secrets.sort_by(|a, b| a.rest.cmp(&b.rest));
        Ok(secrets)
    }

    async fn list(&self, folder: &Place) -> Result<Vec<String>> {
        match self.call(Method::GET, &folder.listing(self.version), None).await {
            Ok(body) => kv::listed(&body),
            Err(Error::NotFound(_)) => self.check_mount(&folder.mount).await.map(|()| Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn tags(&self, place: &Place) -> Result<Option<std::collections::BTreeMap<String, String>>> {
        match self.call(Method::GET, &place.path(self.version, Kind::Metadata), None).await {
            Ok(body) => kv::custom_metadata(&body).map(Some),
            // It went between the listing and now.
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is there; none: nothing, not even metadata.
    async fn current(&self, place: &Place) -> Result<Option<Current>> {
        // A write in the form of another version would make a remote secret that nobody finds.
        self.check_mount(&place.mount).await?;
        match self.call(Method::GET, &place.path(self.version, Kind::Data), None).await {
            Ok(body) => kv::current(self.version, &body).map(Some),
            Err(Error::NotFound(_)) if self.version == KvVersion::V1 => Ok(None),
            // The last version may be deleted, or the first not written yet.
            Err(Error::NotFound(_)) => match self.call(Method::GET, &place.path(self.version, Kind::Metadata), None).await {
                Ok(body) => kv::current_without_data(&body).map(Some),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The mark goes before the data: a crash between the two leaves what the next push takes for its own.
    pub(super) async fn write(&self, push: &Push) -> Result<Pushed> {
        let place = kv::place("remoteRef.remoteKey", self.mount.as_deref(), self.version, &push.target.key)?;
        let current = self.current(&place).await?;
        let there = current.as_ref().and_then(|c| c.data.as_ref());
        if push.only_new && is_there(push, there) {
            return Ok(Pushed::Unchanged);
        }
        if current.as_ref().is_some_and(|c| !c.ours) {
            return Err(refused(&place));
        }
        let wanted = merged(push, there)?;
        if there == Some(&wanted) {
            return Ok(Pushed::Unchanged);
        }
        if current.is_none() && self.version == KvVersion::V2 {
            let mark = json!({"custom_metadata": {(MANAGED_BY.0): MANAGED_BY.1}});
            self.call(Method::POST, &place.path(self.version, Kind::Metadata), Some(&mark)).await?;
        }
        self.put(&place, wanted, current.as_ref().map_or(0, |c| c.version)).await?;
        Ok(if there.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    /// Writes the fields as the version after `version`: what somebody else wrote meanwhile is not overwritten.
    async fn put(&self, place: &Place, mut fields: Map<String, Value>, version: u64) -> Result<()> {
        let body = WipedJson(match self.version {
            KvVersion::V1 => {
                fields.insert(kv::V1_MARK.into(), json!({(MANAGED_BY.0): MANAGED_BY.1}));
                Value::Object(fields)
            }
            KvVersion::V2 => json!({"data": fields, "options": {"cas": version}}),
        });
        self.call(Method::POST, &place.path(self.version, Kind::Data), Some(&body.0)).await.map(drop)
    }

    /// All versions go, with the metadata.
    pub(super) async fn remove(&self, target: &Target) -> Result<Deleted> {
        let place = kv::place("remoteRef.remoteKey", self.mount.as_deref(), self.version, &target.key)?;
        let Some(current) = self.current(&place).await? else { return Ok(Deleted::Absent) };
        if !current.ours {
            return Ok(Deleted::NotOurs);
        }
        if let Some(property) = &target.property {
            // Without data in the last version there is no property, and older versions can still be brought back.
            let mut rest = current.data.unwrap_or_default();
            if rest.remove(property).is_none() {
                return Ok(Deleted::Absent);
            }
            if !rest.is_empty() {
                return self.put(&place, rest, current.version).await.map(|()| Deleted::Done);
            }
        }
        self.call(Method::DELETE, &place.path(self.version, Kind::Metadata), None).await.map(|_| Deleted::Done)
    }
}

fn refused(place: &Place) -> Error {
    let what = format!("Vault's {}/{}", place.mount, place.rest);
    not_ours(&what, &format!("the custom metadata {}={}", MANAGED_BY.0, MANAGED_BY.1))
}
