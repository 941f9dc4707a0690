//! What an API answers, as values by key.

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::generator::webhook::WebhookSpec;
use serde_json::Value;

use super::{FIELD, Webhook};
use crate::generator::{Generated, Generator, values_of};
use crate::registry::Options;
use crate::secret_bytes::WipedJson;
use crate::{Error, Fetched, Payload, Resolver, Result, Want};

/// An API whose answer is an object.
pub(crate) struct Answers(Webhook);

pub(crate) async fn connect(spec: WebhookSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Answers> {
    super::connect(spec.into(), resolver, options).await.map(Answers)
}

#[async_trait]
impl Generator for Answers {
    async fn generate(&self) -> Result<Generated> {
        let answer = self.0.read(&Want::latest("")).await?;
        let Fetched::Value { payload, .. } = answer else {
            return Err(Error::unavailable("the answer was given up"));
        };
        let (Payload::Property(bytes) | Payload::Bytes(bytes)) = &*payload else {
            return Err(Error::unavailable("the answer was given up"));
        };
        let field = format!("{FIELD}.result.jsonPath");
        let wrong = || Error::invalid(&field, "leads to no JSON object, whose keys would be those of the values");
        let object = WipedJson(serde_json::from_slice::<Value>(bytes.expose()).map_err(|_| wrong())?);
        let values = values_of(object.0.as_object().ok_or_else(wrong)?);
        Ok(Generated { values, lease: None })
    }
}
