//! A REST catalog that refuses and answers 503 for a while: the daemon waits, says so, loses nothing, goes on by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use frazil::catalog::Catalog;
use frazil::catalog::memory::MemoryCatalog;
use frazil::env::Env;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::daemon::{World, free_address, get, rows_of};
use crate::server;

/// What the way to the catalog does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Busy,
    Closed,
}

/// A proxy in front of `to`; connections that are there end when the way changes.
async fn proxy(to: SocketAddr, way: watch::Receiver<Way>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(pass(stream, to, way.clone()));
        }
    });
    address
}

async fn pass(mut stream: TcpStream, to: SocketAddr, mut way: watch::Receiver<Way>) {
    let now = *way.borrow_and_update();
    match now {
        Way::Closed => {}
        Way::Busy => {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await;
            let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            if read.is_ok() && stream.write_all(busy).await.is_ok() {
                // An orderly end, so that the answer arrives before it.
                let _ = stream.shutdown().await;
            }
        }
        Way::Open => {
            let Ok(mut there) = TcpStream::connect(to).await else { return };
            tokio::select! {
                biased;
                _ = way.changed() => {}
                _ = tokio::io::copy_bidirectional(&mut stream, &mut there) => {}
            }
        }
    }
}

fn numbered(numbers: std::ops::Range<i64>) -> Vec<u8> {
    numbers.flat_map(|id| format!("{{\"id\":{id}}}\n").into_bytes()).collect()
}

#[test]
fn a_rest_catalog_that_is_away_is_waited_for() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let world = World::new("");
    let warehouse = world.path("warehouse").display().to_string();
    let catalog = Arc::new(MemoryCatalog::new(Env::system(), &warehouse));
    let (switch, way) = watch::channel(Way::Open);
    let address = runtime.block_on(async { proxy(server::serve(Arc::clone(&catalog)).await, way).await });
    let listen = free_address();
    let incoming = world.path("incoming").display().to_string();
    world.configure(&format!(
        r#"
state_dir = "{folder}/state"
[api]
listen = "{listen}"
[catalog.lake]
type = "rest"
uri = "http://{address}/api"
warehouse = "ware house"
vended_credentials = false
[source.in]
type = "files"
path = "{incoming}"
poll = "20ms"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
commit = {{ freshness = "100ms" }}
"#,
        folder = world.path("").display()
    ));
    world.put("0.ndjson", numbered(0..100));
    let mut daemon = world.start(&[]);
    daemon.until(&["committed", "\"rows\":100"]);
    for (round, trouble) in [Way::Closed, Way::Busy].into_iter().enumerate() {
        let first = 100 * (1 + round as i64);
        switch.send(trouble).expect("the proxy listens");
        world.put(&format!("{}.ndjson", round + 1), numbered(first..first + 100));
        daemon.until(&["waiting: ", "shop.orders"]);
        daemon.until(&["a commit is"]);
        let (status, body) = get(listen, "/readyz").expect("it listens");
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("\"waiting\"") && body.contains("shop.orders"), "{body}");
        let (_, metrics) = get(listen, "/metrics").expect("it listens");
        assert!(metrics.contains("frazil_pipeline_state{pipeline=\"orders\",state=\"waiting\"} 1.0"), "{metrics}");
        switch.send(Way::Open).expect("the proxy listens");
        daemon.until(&["committed", "\"rows\":100"]);
        assert_eq!(get(listen, "/readyz").expect("it listens").0, 200);
    }
    daemon.terminate().with(0, &[]);
    let state = runtime.block_on(catalog.load(&"shop.orders".parse().expect("a name"))).expect("there");
    let rows: usize = runtime.block_on(rows_of(&state)).iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 300);
}

#[test]
fn a_daemon_that_starts_before_its_catalog_waits_for_it() {
    let world = World::new("");
    let address = free_address();
    world.configure(&format!(
        r#"
state_dir = "{folder}/state"
[catalog.lake]
type = "rest"
uri = "http://{address}/api"
[source.in]
type = "files"
path = "{folder}/incoming"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
"#,
        folder = world.path("").display()
    ));
    let mut daemon = world.start(&[]);
    daemon.until(&["waiting for the catalog", &address.to_string()]);
    daemon.until(&["waiting for the catalog"]);
    let ended = daemon.terminate();
    assert!(ended.said.contains("stopping"), "{}", ended.said);
}
