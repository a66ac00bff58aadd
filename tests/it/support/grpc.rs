//! A gRPC service and its client, by tonic, whose messages are plain bytes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::{self, Stream, StreamExt};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Response, Status, Streaming};

use super::client::Io;
use super::origin::Origin;

/// Larger than any message here.
const MOST: usize = 64 * 1024 * 1024;

pub type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// An origin with the service `t.T`.
pub struct Service {
    pub origin: Origin,
    calls: Arc<Calls>,
}

/// How many calls have begun, and how many are over, answered or not.
#[derive(Default)]
struct Calls {
    begun: AtomicUsize,
    over: AtomicUsize,
}

struct Call(Arc<Calls>);

impl Call {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.begun.fetch_add(1, Ordering::SeqCst);
        Self(calls.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service {
    /// Speaks HTTP/2 by prior knowledge.
    pub async fn h2c() -> Self {
        let calls = Arc::<Calls>::default();
        let shared = calls.clone();
        let origin = Origin::scripted(move |connection| {
            let calls = shared.clone();
            async move { serve(connection.stream, calls).await }
        })
        .await;
        Self { origin, calls }
    }

    pub async fn tls(config: rustls::ServerConfig) -> Self {
        let calls = Arc::<Calls>::default();
        let shared = calls.clone();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let origin = Origin::scripted(move |connection| {
            let (calls, acceptor) = (shared.clone(), acceptor.clone());
            async move {
                let stream = acceptor.accept(connection.stream).await.unwrap();
                serve(stream, calls).await;
            }
        })
        .await;
        Self { origin, calls }
    }

    pub fn url(&self) -> String {
        format!("h2c://{}", self.origin.address)
    }

    pub fn begun(&self) -> usize {
        self.calls.begun.load(Ordering::SeqCst)
    }

    pub fn over(&self) -> usize {
        self.calls.over.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl Io + 'static, calls: Arc<Calls>) {
    let service = hyper::service::service_fn(move |request| {
        let call = Call::begin(&calls);
        async move { Ok::<_, std::convert::Infallible>(answer(request, call).await) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: http::Request<Incoming>, call: Call) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(MOST);
    match path.as_str() {
        "/t.T/Unary" => grpc.unary(tower::service_fn(unary), request).await,
        "/t.T/Fail" => grpc.unary(tower::service_fn(fail), request).await,
        "/t.T/Up" => grpc.client_streaming(tower::service_fn(up), request).await,
        "/t.T/Down" => grpc.server_streaming(tower::service_fn(down), request).await,
        "/t.T/Both" => grpc.streaming(tower::service_fn(both), request).await,
        "/t.T/Hang" => {
            let _over = call;
            let hang =
                |_: Request<Bytes>| std::future::pending::<Result<Response<Bytes>, Status>>();
            grpc.unary(tower::service_fn(hang), request).await
        }
        "/t.T/HangMidway" => {
            let mut call = Some(call);
            let hang = tower::service_fn(move |_: Request<Bytes>| {
                let call = call.take();
                async move {
                    let first = stream::once(async { Ok(Bytes::from_static(b"first")) });
                    let rest = stream::poll_fn(move |_| {
                        let _kept = &call;
                        Poll::Pending
                    });
                    Ok(Response::new(Box::pin(first.chain(rest)) as Messages))
                }
            });
            grpc.server_streaming(hang, request).await
        }
        _ => Status::unimplemented("nobody knows this method").into_http(),
    }
}

/// Sends the message back, with the metadata, and the timeout that came along.
async fn unary(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let (metadata, _, message) = request.into_parts();
    let mut response = Response::new(message);
    for (from, to) in [("x-echo", "x-echo"), ("grpc-timeout", "x-timeout")] {
        if let Some(value) = metadata.get(from) {
            response.metadata_mut().insert(to, value.clone());
        }
    }
    if let Some(value) = metadata.get_bin("x-echo-bin") {
        response.metadata_mut().insert_bin("x-echo-bin", value.clone());
    }
    Ok(response)
}

/// Fails before there is a response: the status stands in the head.
async fn fail(_: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let details = Bytes::from_static(b"\x08\x05");
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("x-why", "because".parse().unwrap());
    let message = "100 % käse";
    Err(Status::with_details_and_metadata(Code::FailedPrecondition, message, details, metadata))
}

/// As many messages as the request says, and a status behind them if it says.
async fn down(request: Request<Bytes>) -> Result<Response<Messages>, Status> {
    let text = String::from_utf8(request.into_inner().to_vec()).unwrap();
    let (count, fails) = match text.strip_suffix('!') {
        Some(count) => (count, true),
        None => (text.as_str(), false),
    };
    let count: usize = count.parse().unwrap();
    let messages = stream::iter((0..count).map(|number| Ok(Bytes::from(number.to_string()))));
    let end = stream::iter(fails.then(|| Err(Status::data_loss("after the messages"))));
    Ok(Response::new(Box::pin(messages.chain(end))))
}

/// Counts messages and their bytes.
async fn up(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let mut messages = request.into_inner();
    let (mut count, mut bytes) = (0, 0);
    while let Some(message) = messages.message().await? {
        count += 1;
        bytes += message.len();
    }
    Ok(Response::new(format!("{count} of {bytes}").into()))
}

/// Sends each message back as it comes.
async fn both(request: Request<Streaming<Bytes>>) -> Result<Response<Messages>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

/// A connection to call on.
#[derive(Clone)]
pub struct Channel(SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Calls `t.T`.
#[derive(Clone)]
pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(tokio::net::TcpStream::connect(address).await.unwrap()).await
    }

    pub async fn over(stream: impl Io + 'static) -> Self {
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let origin = "http://a.test".parse().unwrap();
        let grpc = tonic::client::Grpc::with_origin(Channel(sender), origin);
        Self(grpc.max_decoding_message_size(MOST))
    }

    async fn grpc(&self) -> tonic::client::Grpc<Channel> {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        grpc
    }

    pub async fn unary(
        &self,
        path: &'static str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        let path = PathAndQuery::from_static(path);
        self.grpc().await.unary(request, path, Raw).await
    }

    /// Unary, of a message alone, with a timeout if need be.
    pub async fn ask(
        &self,
        path: &'static str,
        message: impl Into<Bytes>,
        timeout: Option<Duration>,
    ) -> Result<Response<Bytes>, Status> {
        let mut request = Request::new(message.into());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        self.unary(path, request).await
    }

    pub async fn up(
        &self,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Bytes>, Status> {
        let path = PathAndQuery::from_static("/t.T/Up");
        self.grpc().await.client_streaming(Request::new(messages), path, Raw).await
    }

    pub async fn down(
        &self,
        path: &'static str,
        request: Request<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        let path = PathAndQuery::from_static(path);
        self.grpc().await.server_streaming(request, path, Raw).await
    }

    pub async fn both(
        &self,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        let path = PathAndQuery::from_static("/t.T/Both");
        self.grpc().await.streaming(Request::new(messages), path, Raw).await
    }
}

/// A message as it stands on the wire, uncompressed.
pub fn message(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), content].concat()
}
