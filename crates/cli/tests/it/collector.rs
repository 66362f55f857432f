//! An OpenTelemetry collector, as far as OTLP over HTTP needs one.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Method and path.
    pub target: String,
    /// By names in small letters.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// Takes whatever comes and keeps it.
pub struct Collector {
    pub address: SocketAddr,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&deliveries);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, kept) = (stream.unwrap(), Arc::clone(&kept));
                std::thread::spawn(move || {
                    while let Some(delivery) = receive(&stream) {
                        kept.lock().unwrap().push(delivery);
                        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                    }
                });
            }
        });
        Self { address, deliveries }
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }

    /// Every span that came, with its resource's attributes.
    pub fn spans(&self) -> Vec<(Span, HashMap<String, String>)> {
        let requests = self.deliveries().into_iter().map(|delivery| {
            assert_eq!(delivery.target, "POST /v1/traces");
            assert_eq!(delivery.headers["content-type"], "application/x-protobuf");
            ExportTraceServiceRequest::decode(&delivery.body[..]).unwrap()
        });
        let resources = requests.flat_map(|request| request.resource_spans);
        let spans = resources.flat_map(|spans| {
            let resource = attributes(&spans.resource.unwrap().attributes);
            let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| (span, resource.clone()))
        });
        spans.collect()
    }
}

/// The next request of a connection.
fn receive(stream: &TcpStream) -> Option<Delivery> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let first = line();
    let target = first.strip_suffix(" HTTP/1.1")?.to_owned();
    let headers: HashMap<String, String> = std::iter::from_fn(|| {
        let (name, value) =
            line().split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))?;
        Some((name, value))
    })
    .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Some(Delivery { target, headers, body })
}

/// Attributes as text, whatever their type.
pub fn attributes(attributes: &[KeyValue]) -> HashMap<String, String> {
    attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref().unwrap()))).collect()
}

fn text(value: &AnyValue) -> String {
    match value.value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::ArrayValue(array) => array.values.iter().map(text).collect::<Vec<_>>().join(","),
        other => panic!("{other:?}"),
    }
}
