//! Several that belong together: the nodes of a cluster; a master, its replica and a
//! sentinel.

use std::time::Duration;

use super::redis::{How, Redis, free_port};

/// Three masters, each with a third of the slots.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

/// A master called `mymaster`, a replica of it, and a sentinel that watches both.
pub struct Watched {
    pub master: Redis,
    pub replica: Redis,
    pub sentinel: Redis,
}

impl Cluster {
    pub fn start(password: Option<&'static str>) -> Self {
        let node = |number: u16| {
            let (mut how, bus) = (How { password, ..How::default() }, free_port());
            how.arguments = arguments(&[
                "--cluster-enabled yes --cluster-config-file nodes.conf",
                "--cluster-node-timeout 1000 --cluster-require-full-coverage no",
                &format!("--cluster-port {bus} --cluster-announce-ip 127.0.0.1"),
            ]);
            let node = Redis::start_as(how);
            let (first, last) = (number * 5_462, ((number + 1) * 5_462 - 1).min(16_383));
            node.ask(["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            (node, bus)
        };
        let nodes: Vec<(Redis, u16)> = (0..3).map(node).collect();
        for (other, bus) in &nodes[1..] {
            let (port, bus) = (other.port.to_string(), bus.to_string());
            nodes[0].0.ask(["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let nodes: Vec<Redis> = nodes.into_iter().map(|(node, _)| node).collect();
        let all_know = |node: &Redis| {
            let info = node.ask(["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384")
        };
        wait("the cluster is whole", || nodes.iter().all(all_know));
        Self { nodes }
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    pub fn slot(&self, key: &str) -> String {
        self.nodes[0].ask(["CLUSTER", "KEYSLOT", key])[1..].trim().to_owned()
    }

    pub fn id(&self, node: usize) -> String {
        let answer = self.nodes[node].ask(["CLUSTER", "MYID"]);
        answer.lines().nth(1).unwrap().to_owned()
    }
}

impl Watched {
    /// `password` is the one of master and replica; the sentinel has `watching`.
    pub fn start(password: Option<&'static str>) -> Self {
        let data = |more: &str| {
            let auth = password.map(|password| format!("--masterauth {password}"));
            let auth = auth.unwrap_or_default();
            Redis::start_as(How {
                password,
                arguments: arguments(&[&auth, more]),
                ..How::default()
            })
        };
        let master = data("");
        let replica = data(&format!("--replicaof 127.0.0.1 {}", master.port));
        wait("the replica follows", || {
            replica.ask(["INFO", "replication"]).contains("master_link_status:up")
        });
        let sentinel = sentinel(master.port, password);
        wait("the sentinel knows the replica", || {
            let known = sentinel.ask(["SENTINEL", "MASTER", "mymaster"]);
            known.contains("num-slaves\r\n$1\r\n1")
        });
        Self { master, replica, sentinel }
    }

    /// What the sentinel says where the master is.
    pub fn named(&self) -> u16 {
        let named = self.sentinel.ask(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]);
        named.lines().nth(4).unwrap().parse().unwrap()
    }
}

/// A sentinel that is told that the master is there.
pub fn sentinel(master: u16, password: Option<&'static str>) -> Redis {
    let mut how = How { password: password.map(|_| "watching"), ..How::default() };
    let auth = password.map(|password| format!("sentinel auth-pass mymaster {password}\n"));
    how.sentinel = Some(format!(
        "sentinel monitor mymaster 127.0.0.1 {master} 1\n\
         sentinel down-after-milliseconds mymaster 500\n\
         sentinel failover-timeout mymaster 3000\n{}",
        auth.unwrap_or_default()
    ));
    Redis::start_as(how)
}

fn arguments(lines: &[&str]) -> Vec<String> {
    lines.iter().flat_map(|line| line.split_whitespace()).map(str::to_owned).collect()
}

fn wait(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..500 {
        if check() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it never came about that {what}");
}
