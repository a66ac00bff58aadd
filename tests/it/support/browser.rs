//! A browser, as far as logins go: it keeps cookies, and goes where it is sent.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use super::certs::{self, Authority};
use super::client::{Answer, Raw};

/// A browser that reaches some hosts over TLS.
pub struct Browser<'a> {
    authority: &'a Authority,
    /// Where hosts are, by name and port if they have one.
    hosts: HashMap<String, SocketAddr>,
    /// By host.
    cookies: HashMap<String, BTreeMap<String, String>>,
    /// Every URL that was asked for.
    pub visited: Vec<String>,
    /// Where it is.
    pub address: Ipv4Addr,
}

impl<'a> Browser<'a> {
    pub fn new(authority: &'a Authority, hosts: &[(String, SocketAddr)]) -> Self {
        let hosts = hosts.iter().cloned().collect();
        let address = Ipv4Addr::LOCALHOST;
        Self { authority, hosts, cookies: HashMap::new(), visited: Vec::new(), address }
    }

    /// Goes to a URL, as somebody does who clicks on it.
    pub async fn go(&mut self, url: &str) -> Answer {
        self.send("GET", url, "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Mode: navigate\r\n").await
    }

    /// Goes to a URL, and on to where it is sent from there.
    pub async fn follow(&mut self, url: &str) -> Answer {
        let mut answer = self.go(url).await;
        for _ in 0..8 {
            let Some(location) = answer.field("location").map(str::to_owned) else { break };
            answer = self.go(&location).await;
        }
        answer
    }

    /// Sends a request with the cookies of its host, and keeps those that come back.
    pub async fn send(&mut self, method: &str, url: &str, fields: &str) -> Answer {
        self.visited.push(url.to_owned());
        let rest = url.strip_prefix("https://").unwrap();
        let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let target = if target.is_empty() { "/" } else { target };
        let address = *self.hosts.get(host).unwrap_or_else(|| panic!("sent to {url}"));
        let cookies = self.cookies.get(host).map(|jar| {
            let pairs: Vec<String> =
                jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("Cookie: {}\r\n", pairs.join("; "))
        });
        let cookies = cookies.filter(|line| line.len() > "Cookie: \r\n".len()).unwrap_or_default();
        let name = host.split(':').next().unwrap();
        let config = self.authority.client(&["http/1.1"]);
        let stream = certs::connect_from(self.address, address, config, name).await.unwrap();
        let mut client = Raw::over(stream);
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{cookies}{fields}\r\n");
        client.send(head).await;
        let answer = client.answer_to(method).await;
        for cookie in answer.fields("set-cookie") {
            self.keep(host, cookie);
        }
        answer
    }

    fn keep(&mut self, host: &str, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        // What every cookie of ours has to have over TLS.
        for wanted in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
            assert!(format!(";{attributes}").contains(wanted), "{cookie}");
        }
        assert!(name.starts_with("__Host-") && !attributes.contains("Domain"), "{cookie}");
        assert!(cookie.len() <= 4096, "{}", cookie.len());
        let jar = self.cookies.entry(host.to_owned()).or_default();
        if attributes.contains("Max-Age=0") {
            jar.remove(name);
        } else {
            jar.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The cookies of a host.
    pub fn jar(&mut self, host: &str) -> &mut BTreeMap<String, String> {
        self.cookies.entry(host.to_owned()).or_default()
    }
}
