//! The fake provider: values that stand in the store's spec, for demos and tests.

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::store::fake::{FakeData, FakeProvider};

use crate::registry::Options;
use crate::{Access, Capabilities, Error, Fetched, Payload, Provider, Resolver, Result, SecretBytes, Validity, Want};

/// Values of a spec.
pub(crate) struct Fake {
    data: Vec<FakeData>,
    validation: Result<Validity>,
}

pub(crate) async fn connect(spec: FakeProvider, _: Arc<dyn Resolver>, _: &Options) -> Result<Fake> {
    let validation = match spec.validation_result {
        None | Some(0) => Ok(Validity::Valid),
        Some(1) => Ok(Validity::Unknown),
        Some(_) => Err(Error::invalid("spec.provider.fake.validationResult", "says that the store is invalid")),
    };
    Ok(Fake { data: spec.data, validation })
}

impl Fake {
    fn read(&self, want: &Want) -> Result<Fetched> {
        if want.metadata {
            return Err(Error::Unsupported("metadataPolicy Fetch: the fake provider has no metadata".into()));
        }
        let entry = self
            .data
            .iter()
            .rev()
            .find(|e| e.key == want.key && want.version.as_ref().is_none_or(|v| Some(v) == e.version.as_ref()))
            .ok_or_else(|| Error::NotFound("no entry of spec.provider.fake.data has this key and version".into()))?;
        Ok(Fetched::Value { payload: Arc::new(Payload::Bytes(SecretBytes::from(entry.value.as_str()))), version: None })
    }
}

#[async_trait]
impl Provider for Fake {
    async fn validate(&self) -> Result<Validity> {
        self.validation.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadOnly, batch: 100, concurrency: 16 }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        wants.iter().map(|want| self.read(want)).collect()
    }
}
