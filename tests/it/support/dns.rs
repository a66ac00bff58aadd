//! A name server, over UDP and TCP, that says what a test wants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// A name server that knows only what it was told.
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Zone>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Zone {
    names: Mutex<HashMap<String, Entry>>,
    questions: Mutex<Vec<Question>>,
}

/// A question that came.
#[derive(Clone, Debug)]
pub struct Question {
    pub name: String,
    pub kind: RecordType,
    pub tcp: bool,
}

#[derive(Clone, Default)]
struct Entry {
    records: Vec<Record>,
    mood: Mood,
}

/// How a name server treats questions for a name.
#[derive(Clone, Copy, Default)]
pub enum Mood {
    /// Answers.
    #[default]
    Good,
    /// Answers, after a while.
    Slow(Duration),
    /// SERVFAIL.
    Failing,
    /// Says nothing.
    Silent,
    /// Says nothing to questions for IPv6 addresses.
    SilentOnV6,
    /// Sends bytes that are no answer.
    Garbage,
}

/// The name with the dot at its end.
fn whole(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.').to_ascii_lowercase())
}

fn parsed(name: &str) -> Name {
    Name::from_ascii(whole(name)).unwrap()
}

impl NameServer {
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Zone::default());
        let tasks = vec![
            tokio::spawn(serve_udp(Arc::new(udp), zone.clone())),
            tokio::spawn(serve_tcp(tcp, zone.clone())),
        ];
        Self { address, zone, tasks }
    }

    fn put(&self, name: &str, records: impl IntoIterator<Item = (RData, u32)>) {
        let records =
            records.into_iter().map(|(data, ttl)| Record::from_rdata(parsed(name), ttl, data));
        let entry = Entry { records: records.collect(), mood: Mood::Good };
        self.zone.names.lock().insert(whole(name), entry);
    }

    /// `name` has these addresses, and none else, for `ttl` seconds.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        self.put(name, addresses.iter().map(|ip| (ip.parse::<IpAddr>().unwrap().into(), ttl)));
    }

    /// `name` is another name for `target`.
    pub fn alias(&self, name: &str, ttl: u32, target: &str) {
        self.put(name, [(RData::CNAME(CNAME(parsed(target))), ttl)]);
    }

    /// `name` is offered by these: priority, weight, port and host.
    pub fn service(&self, name: &str, ttl: u32, targets: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            (RData::SRV(SRV::new(*priority, *weight, *port, parsed(host))), ttl)
        };
        self.put(name, targets.iter().map(record));
    }

    /// There is no such name.
    pub fn forget(&self, name: &str) {
        self.zone.names.lock().remove(&whole(name));
    }

    pub fn mood(&self, name: &str, mood: Mood) {
        self.zone.names.lock().entry(whole(name)).or_default().mood = mood;
    }

    /// The questions for `name` so far.
    pub fn questions(&self, name: &str) -> Vec<Question> {
        let name = whole(name);
        self.zone.questions.lock().iter().filter(|asked| asked.name == name).cloned().collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Arc<Zone>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let (query, socket, zone) = (buffer[..length].to_vec(), socket.clone(), zone.clone());
        tokio::spawn(async move {
            if let Some(answer) = zone.answer(&query, false).await {
                let _gone = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_stream(stream, zone.clone()));
    }
}

async fn serve_stream(mut stream: TcpStream, zone: Arc<Zone>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        let Some(answer) = zone.answer(&query, true).await else { continue };
        let length = u16::try_from(answer.len()).unwrap();
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}

impl Zone {
    async fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let asked = query.queries[0].clone();
        let (name, kind) = (whole(&asked.name().to_ascii()), asked.query_type());
        self.questions.lock().push(Question { name: name.clone(), kind, tcp });
        let entry = self.names.lock().get(&name).cloned();
        match entry.as_ref().map_or(Mood::Good, |entry| entry.mood) {
            Mood::Good | Mood::Failing => {}
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::SilentOnV6 if kind != RecordType::AAAA => {}
            Mood::Silent | Mood::SilentOnV6 => return None,
            Mood::Garbage => return Some(vec![0xff; 40]),
        }
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(asked);
        match entry {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(Entry { mood: Mood::Failing, .. }) => {
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            Some(_) => {
                answer.add_answers(self.chain(&name, kind));
            }
        }
        let bytes = answer.to_vec().unwrap();
        if tcp || bytes.len() <= query.max_payload().into() {
            return Some(bytes);
        }
        let mut cut = answer.truncate();
        cut.metadata.truncation = true;
        Some(cut.to_vec().unwrap())
    }

    /// The records of a name, and of those that it is another name for.
    fn chain(&self, name: &str, kind: RecordType) -> Vec<Record> {
        let names = self.names.lock();
        let (mut found, mut next) = (Vec::new(), Some(name.to_owned()));
        for _ in 0..8 {
            let Some(entry) = next.take().and_then(|name| names.get(&name)) else { break };
            for record in &entry.records {
                if let RData::CNAME(CNAME(target)) = &record.data {
                    next = Some(whole(&target.to_ascii()));
                    found.push(record.clone());
                } else if record.record_type() == kind {
                    found.push(record.clone());
                }
            }
        }
        found
    }
}

/// Listeners on each of these addresses, all on one port.
pub async fn listeners(ips: &[&str]) -> (u16, Vec<TcpListener>) {
    'port: loop {
        let mut bound = vec![TcpListener::bind((ips[0], 0)).await.unwrap()];
        let port = bound[0].local_addr().unwrap().port();
        for ip in &ips[1..] {
            match TcpListener::bind((*ip, port)).await {
                Ok(listener) => bound.push(listener),
                Err(_) => continue 'port,
            }
        }
        return (port, bound);
    }
}
