//! The connection and the watcher against a server in this process, well-behaved and not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::SystemClock;
use nilometer_source::Discovery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::connection::{CallError, Connection, MAX_MESSAGE_BYTES, Notice};
use crate::protocol::{
    self, DomainRef, Header, KEEPALIVE, MessageType, PING, PONG, REMOTE, Uuid, VERSION, procedure,
};
use crate::xdr::{Reader, Writer};
use crate::{LibvirtConfig, discover};

const PATIENCE: Duration = Duration::from_secs(20);

async fn receive(stream: &mut UnixStream) -> (Header, Vec<u8>) {
    let length = stream.read_u32().await.unwrap() as usize;
    let mut message = vec![0; length - 4];
    stream.read_exact(&mut message).await.unwrap();
    let mut reader = Reader::new(&message);
    let header = Header::decode(&mut reader).unwrap();
    (header, reader.take(reader.left()).unwrap().to_vec())
}

async fn send(stream: &mut UnixStream, header: Header, payload: &[u8]) {
    stream.write_all(&protocol::message(header, payload)).await.unwrap();
}

fn reply(to: Header, status: i32) -> Header {
    Header { kind: MessageType::Reply, status, ..to }
}

async fn connected(
    dir: &Path,
    patience: Duration,
) -> (UnixStream, Connection, mpsc::Receiver<Notice>) {
    let path = dir.join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let connecting = Connection::connect(&path, patience, Arc::new(SystemClock));
    let (accepted, made) = tokio::join!(listener.accept(), connecting);
    let (connection, notices) = made.unwrap();
    (accepted.unwrap().0, connection, notices)
}

#[tokio::test]
async fn replies_find_their_calls_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, connection, _notices) = connected(dir.path(), PATIENCE).await;
    let serve = async {
        let (first, _) = receive(&mut server).await;
        let (second, _) = receive(&mut server).await;
        assert_ne!(first.serial, second.serial);
        let unknown = Header { serial: 99, ..first };
        send(&mut server, reply(unknown, 0), b"nobody's").await;
        send(&mut server, reply(second, 0), &second.procedure.to_be_bytes()).await;
        send(&mut server, reply(first, 0), &first.procedure.to_be_bytes()).await;
    };
    let (one, two, ()) = tokio::join!(connection.call(1, &[]), connection.call(2, &[]), serve);
    assert_eq!(one.unwrap(), 1i32.to_be_bytes());
    assert_eq!(two.unwrap(), 2i32.to_be_bytes());
}

#[tokio::test]
async fn a_ping_is_answered_and_a_refusal_is_an_error_that_does_not_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, connection, _notices) = connected(dir.path(), PATIENCE).await;
    let serve = async {
        let (call, _) = receive(&mut server).await;
        let ping = Header {
            program: KEEPALIVE,
            version: VERSION,
            procedure: PING,
            kind: MessageType::Message,
            serial: 0,
            status: 0,
        };
        send(&mut server, ping, &[]).await;
        let (pong, payload) = receive(&mut server).await;
        assert_eq!((pong, payload), (Header { procedure: PONG, ..ping }, vec![]));
        let mut error = Writer::default();
        error.i32(42).i32(10).optional_text(Some("no such domain")).i32(2);
        send(&mut server, reply(call, 1), &error.into_bytes()).await;
    };
    let (answer, ()) = tokio::join!(connection.call(14, &[]), serve);
    let error = answer.unwrap_err();
    assert!(!error.is_fatal());
    assert_eq!(error.to_string(), "libvirt says: no such domain (code 42)");
}

#[tokio::test]
async fn an_event_is_stamped_when_it_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, _connection, mut notices) = connected(dir.path(), PATIENCE).await;
    let header = Header {
        program: REMOTE,
        version: VERSION,
        procedure: procedure::DOMAIN_EVENT_CALLBACK_LIFECYCLE,
        kind: MessageType::Message,
        serial: 0,
        status: 0,
    };
    let domain = DomainRef { name: "vm".to_owned(), uuid: Uuid([1; 16]), id: 3 };
    let mut event = Writer::default();
    event.i32(5);
    domain.encode(&mut event);
    event.i32(2).i32(0);
    send(&mut server, header, b"cut").await;
    send(&mut server, header, &event.into_bytes()).await;
    let notice = notices.recv().await.unwrap();
    assert_eq!((notice.event.domain, notice.event.lifecycle), (domain, Some((2, 0))));
    assert!(notice.at.is_plausible());
    drop(server);
    assert!(notices.recv().await.is_none(), "the queue ends with the connection");
}

#[tokio::test]
async fn silence_ends_in_a_time_out() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, connection, _notices) = connected(dir.path(), Duration::from_millis(20)).await;
    let error = connection.call(1, &[]).await.unwrap_err();
    assert!(error.is_fatal() && matches!(error, CallError::TimedOut { procedure: 1, .. }));
}

#[tokio::test]
async fn a_message_past_the_bound_ends_the_connection() {
    for length in [0, 27, MAX_MESSAGE_BYTES as u32 + 1, u32::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let (mut server, connection, mut notices) = connected(dir.path(), PATIENCE).await;
        let serve = async {
            receive(&mut server).await;
            server.write_u32(length).await.unwrap();
        };
        let (answer, ()) = tokio::join!(connection.call(1, &[]), serve);
        assert!(answer.unwrap_err().is_fatal());
        assert!(notices.recv().await.is_none());
    }
}

#[tokio::test]
async fn a_socket_that_wants_a_password_is_absent_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = async {
        let (mut server, _) = listener.accept().await.unwrap();
        let (call, _) = receive(&mut server).await;
        assert_eq!(call.procedure, procedure::AUTH_LIST);
        send(&mut server, reply(call, 0), &[0, 0, 0, 1, 0, 0, 0, 1]).await;
    };
    let config = LibvirtConfig { sockets: vec![path], ..LibvirtConfig::default() };
    let (outlet, _pushed) = mpsc::channel(1);
    let (found, ()) = tokio::join!(discover(config, Arc::new(SystemClock), outlet), serve);
    let Discovery::Absent { reason } = found else { panic!("nothing to be found") };
    assert!(reason.contains("authentication of kind [1]"), "{reason}");
}

#[tokio::test]
async fn no_socket_is_absent_and_names_what_was_tried() {
    let config = LibvirtConfig {
        sockets: vec![PathBuf::from("/nonexistent/libvirt-sock")],
        ..LibvirtConfig::default()
    };
    let (outlet, _pushed) = mpsc::channel(1);
    let found = discover(config, Arc::new(SystemClock), outlet).await;
    let Discovery::Absent { reason } = found else { panic!("nothing to be found") };
    assert_eq!(reason, "no socket at /nonexistent/libvirt-sock");
}
