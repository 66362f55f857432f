//! Signals: what is in flight is finished, and nothing is waited for that does not end.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::common::{PATIENCE, bits, danaus, embed_lines, eventually, small_model};
use crate::server::{Server, vectors};

/// Sends a request but for the second half of its body, which is returned, and waits until the server has it.
fn half_a_request(server: &Server) -> (TcpStream, String) {
    let body = json!({"query": "in flight"}).to_string();
    let (first, second) = body.split_at(body.len() / 2);
    let mut stream = server.connect();
    let head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{first}", body.len()).unwrap();
    // That of the metrics is in flight too.
    let begun =
        eventually(PATIENCE, || (server.metric("danaus_http_requests_in_flight") >= 2.0).then_some(()));
    begun.expect("the request never begins");
    (stream, second.to_owned())
}

#[test]
fn a_signal_lets_requests_in_flight_finish() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::of(small_model(), "");
        let (mut stream, rest) = half_a_request(&server);
        server.signal(signal);
        server.wait_for_log(&format!(
            "finishing requests in flight; once more to stop at once signal=\"SIG{signal}\""
        ));
        let closed = eventually(PATIENCE, || TcpStream::connect(server.address).is_err().then_some(()));
        closed.expect("connections are accepted after the signal");
        stream.write_all(rest.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        let got = vectors(&serde_json::from_str(body).unwrap());
        assert_eq!(bits(&got[0]), embed_lines("", "in flight\n")[0].bits());
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    }
}

/// The model of the real shape is computing when the signal comes.
#[test]
fn a_batch_that_is_being_computed_is_finished() {
    let args = ["serve", "--host", "127.0.0.1", "--port", "0", "--model", "synthetic:2k"];
    let mut server = Server::start(&mut danaus(&args));
    server.wait_until_ready();
    // Equal ones would be computed once.
    let texts: Vec<_> = (1000..1004).map(|words| vec!["word"; words].join(" ")).collect();
    let answer = std::thread::scope(|scope| {
        let request = scope.spawn(|| server.post("/embed", &json!({"query": texts})));
        // Those that wait are behind one that is being computed.
        let begun = eventually(PATIENCE, || (server.metric("danaus_queue_texts") > 0.0).then_some(()));
        begun.expect("the batch never begins");
        server.signal("TERM");
        request.join().unwrap()
    });
    assert_eq!((answer.0, vectors(&answer.1).len()), (200, 4));
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

/// One that never sends its body would hold up the end for ever.
#[test]
fn a_shutdown_waits_no_longer_than_it_may() {
    let mut server = Server::of(small_model(), "--shutdown-timeout 0.2");
    let _request = half_a_request(&server);
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    server.wait_for_log("requests still in flight at the shutdown's timeout");
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let mut server = Server::of(small_model(), "--shutdown-timeout 100000");
    let _never_used = server.connect();
    let mut used = server.connect();
    used.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(used.read(&mut [0; 12]).unwrap(), 12);
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut server = Server::of(small_model(), "--shutdown-timeout 100000");
        let _request = half_a_request(&server);
        server.signal(first);
        server.wait_for_log("finishing requests in flight");
        server.signal(second);
        assert_eq!(server.exit_code(), Some(1), "{}", server.log());
        server.wait_for_log("stopping at once");
    }
}
