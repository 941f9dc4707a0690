//! Generators that share a store's client speak of their own fields.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Generated, Generator, Held, Lease};
use crate::{Error, Result};

type Renames = &'static [(&'static str, &'static str)];

/// Messages name the fields of the generator's manifest, not those of a store.
struct Renamed<G>(Renames, G);

fn rename(renames: Renames, error: Error) -> Error {
    error.map_text(|text| renames.iter().fold(text, |text, (from, to)| text.replace(from, to)))
}

pub fn renamed<G: Generator + 'static>(renames: Renames, made: Result<G>) -> Result<Arc<dyn Generator>> {
    made.map(|made| Arc::new(Renamed(renames, made)) as Arc<dyn Generator>).map_err(|error| rename(renames, error))
}

#[async_trait]
impl<G: Generator> Generator for Renamed<G> {
    async fn generate(&self) -> Result<Generated> {
        let authority = |error| match error {
            Error::NotFound(why) => Error::invalid("spec", why),
            other => other,
        };
        self.1.generate().await.map_err(|error| rename(self.0, authority(error)))
    }

    async fn renew(&self, lease: &Lease) -> Result<Held> {
        self.1.renew(lease).await.map_err(|error| rename(self.0, error))
    }

    async fn revoke(&self, lease: &Lease) -> Result<()> {
        self.1.revoke(lease).await.map_err(|error| rename(self.0, error))
    }

    async fn close(&self) {
        self.1.close().await;
    }
}
