//! The OpenAI wire: Chat Completions, as OpenAI and everything compatible with it speak it.

mod request;
pub(crate) mod response;
pub(crate) mod stream;

use async_trait::async_trait;

use crate::http::{Client, Endpoint, KeyHeader, ModelOptions, OptionsError, answer_stream};
use crate::model::{Model, ModelAnswer, ModelError, ModelRequest, ModelStream, TokenCount};
use crate::tokens;

/// A model behind `POST {base_url}/chat/completions`.
#[derive(Debug)]
pub struct ChatModel {
    endpoint: Endpoint,
}

impl ChatModel {
    /// Prepares the model; nothing is sent.
    ///
    /// # Errors
    /// If the URL, the key or a header cannot be used.
    pub fn new(client: &Client, options: ModelOptions) -> Result<Self, OptionsError> {
        let endpoint = Endpoint::new(client, options, "/chat/completions", KeyHeader::Bearer)?;
        Ok(Self { endpoint })
    }
}

#[async_trait]
impl Model for ChatModel {
    fn name(&self) -> &str {
        self.endpoint.name()
    }

    fn simulated(&self) -> bool {
        self.endpoint.options().simulated
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        let body = request::body(self.endpoint.options(), request, false);
        let answer = self.endpoint.ask(request, &body).await?;
        response::read(&answer).map_err(|error| self.endpoint.error(error))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let body = request::body(self.endpoint.options(), request, true);
        let response = self.endpoint.ask_stream(request, &body).await?;
        let accumulator = stream::Accumulator::default();
        Ok(answer_stream(response, accumulator, self.endpoint.redactor()))
    }

    fn count_tokens(&self, request: &ModelRequest) -> TokenCount {
        tokens::count(&self.endpoint.options().model, request)
    }
}
