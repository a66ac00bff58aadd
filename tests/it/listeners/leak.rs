//! Nothing is left of what has gone: counted in a process of its own, where
//! nobody else opens files.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tollgate::accept::ListenAddress;

use super::{change, plain, started};
use crate::support::client::Raw;
use crate::support::websocket::{echo, h2_to, upgrade};
use crate::support::{eventually, within};

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn listeners_that_come_and_go_leave_no_file_and_no_task() {
    let inner = "listeners::leak::come_and_go";
    let here = std::env::current_exe().unwrap();
    let tested = std::process::Command::new(here)
        .args(["--exact", inner, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tested.stdout);
    let complained = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

#[tokio::test]
#[ignore = "run by the test above, alone in a process"]
async fn come_and_go() {
    within(async {
        let (origin, _events) = echo().await;
        let proxy = started(&origin, 3).await;
        let unix = |name: &str| {
            let mut settings = plain(name);
            let path = proxy.dir.path().join(format!("{name}.sock"));
            settings.addresses.push(ListenAddress::Unix(path));
            settings
        };
        let (mut before, mut leaving) = (None, tokio::task::JoinSet::new());
        for round in 0..101 {
            change(&proxy.listeners, &[plain("public"), unix("second"), plain("third")]);
            let address = proxy.listeners.addresses("second")[0];
            let tcp = TcpStream::connect(address).await.unwrap();
            let (mut socket, _) = upgrade(Box::new(tcp), &[]).await;
            let mut idle = Raw::connect(address).await;
            let _h2 = h2_to(address).await;
            change(&proxy.listeners, &[plain("public")]);
            socket.send(Message::text("x")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("x"));
            drop(socket);
            leaving.spawn(async move { assert!(idle.read_to_end().await.is_empty()) });
            if round == 0 {
                // Settled, from the first on.
                leaving.join_next().await.unwrap().unwrap();
                settled(&proxy).await;
                before = Some((open_files(), proxy.listeners.tasks()));
            }
        }
        while let Some(left) = leaving.join_next().await {
            left.unwrap();
        }
        let before = before.unwrap();
        eventually("all is as before", async || (open_files(), proxy.listeners.tasks()) == before)
            .await;
    })
    .await;
}

/// Waits until nothing of the last round is under way.
async fn settled(proxy: &crate::support::proxy::Running) {
    let mut last = (0, 0);
    eventually("it is quiet", async || {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = (open_files(), proxy.listeners.tasks());
        std::mem::replace(&mut last, now) == now
    })
    .await;
}
