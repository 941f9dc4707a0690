//! Generators that share a store's client speak of their own fields.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Generated, Generator, Held, Lease, Ticket};
use crate::{Error, Result};

type Renames = &'static [(&'static str, &'static str)];

/// Messages name the fields of the generator's manifest, not those of a store.
struct Renamed<G>(Renames, G);

fn rename(renames: Renames, error: Error) -> Error {
    error.map_text(|text| renames.iter().fold(text, |text, (from, to)| text.replace(from, to)))
}

/// That a generator has nothing says nothing about a secret.
fn without_authority(error: Error) -> Error {
    match error {
        Error::NotFound(why) => Error::invalid("spec", why),
        other => other,
    }
}

pub fn renamed<G: Generator + 'static>(renames: Renames, made: Result<G>) -> Result<Arc<dyn Generator>> {
    made.map(|made| Arc::new(Renamed(renames, made)) as Arc<dyn Generator>).map_err(|error| rename(renames, error))
}

#[async_trait]
impl<G: Generator> Generator for Renamed<G> {
    async fn generate(&self) -> Result<Generated> {
        self.1.generate().await.map_err(|error| rename(self.0, without_authority(error)))
    }

    async fn ticket(&self) -> Result<Option<Ticket>> {
        self.1.ticket().await.map_err(|error| rename(self.0, without_authority(error)))
    }

    async fn generate_with(&self, ticket: &Ticket) -> Result<Generated> {
        self.1.generate_with(ticket).await.map_err(|error| rename(self.0, without_authority(error)))
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
