//! A gRPC service by tonic with one unary method. Its code is made by `build.rs`.

use axum::Router;
use tonic::{Request, Response, Status, service::Routes};

include!(concat!(env!("OUT_DIR"), "/site.Texts.rs"));

use texts_server::{Texts, TextsServer};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Text {
    #[prost(string, tag = "1")]
    pub text: String,
}

struct Service;

#[tonic::async_trait]
impl Texts for Service {
    /// Answers with what it was sent.
    async fn echo(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

pub fn router() -> Router {
    Routes::new(TextsServer::new(Service)).into_axum_router()
}
