//! Asks the name servers, by way of hickory.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use parking_lot::Mutex;

use super::records::{self, Addresses, Part};
use super::service::Target;
use super::settings::DnsSettings;
use super::{Answer, Fault};

/// Once a family's addresses are there, those of the other are waited for no
/// longer than this (RFC 8305 §3): they come with a later answer.
const LATE: Duration = Duration::from_millis(500);

/// How long what the hosts file says is taken for granted.
const HOSTS_TTL: Duration = Duration::from_secs(30);

/// Search domains for which a question may be put again.
const MOST_SEARCHED: u32 = 8;

/// Asks name servers for the names of origins. Nothing is read or sent before
/// the first question.
#[derive(Debug)]
pub struct Resolver {
    settings: DnsSettings,
    client: Mutex<Option<TokioResolver>>,
    /// Whether it was said that the system's settings cannot be used.
    complained: AtomicBool,
}

/// The address records that are looked for, both families of them.
const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

impl Resolver {
    /// Will resolve as the settings say.
    #[must_use]
    pub fn new(settings: DnsSettings) -> Arc<Self> {
        Arc::new(Self { settings, client: Mutex::new(None), complained: AtomicBool::new(false) })
    }

    pub(super) fn settings(&self) -> &DnsSettings {
        &self.settings
    }

    /// The addresses of a name: from the hosts file, or else from its name
    /// servers, without those that it may not point at.
    pub(super) async fn addresses(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Answer<Addresses>, Fault> {
        let (client, hosts) = self.prepare(self.parse(name)?).await?;
        if !hosts.is_empty() {
            let found = Addresses { ips: hosts, ..Addresses::default() };
            return Ok(Answer { found, ttl: HOSTS_TTL.min(self.settings.max_ttl) });
        }
        let asked = self.parse(name)?;
        let family = self.settings.family;
        let v4 = self.family(&client, &asked, RecordType::A, family.has_ipv4());
        let v6 = self.family(&client, &asked, RecordType::AAAA, family.has_ipv6());
        let parts = both(v4, v6).await;
        let answer = records::join(parts, asked.is_localhost(), &self.settings);
        self.forget_after(answer)
    }

    /// The targets of a service.
    pub(super) async fn targets(
        self: &Arc<Self>,
        service: &str,
    ) -> Result<Answer<Vec<Target>>, Fault> {
        let asked = self.parse(service)?;
        let (client, _hosts) = self.prepare(asked.clone()).await?;
        let answer = match self.ask(&client, asked, RecordType::SRV).await {
            Ok(lookup) => records::targets(&lookup, &self.settings),
            Err(error) => Err(records::fault(&error)),
        };
        self.forget_after(answer)
    }

    fn parse(&self, name: &str) -> Result<Name, Fault> {
        let mut parsed = Name::from_ascii(name)
            .map_err(|error| Fault::new("invalid", format!("it cannot be a name: {error}")))?;
        if !self.settings.servers.is_empty() {
            parsed.set_fqdn(true);
        }
        Ok(parsed)
    }

    /// A client, and what the hosts file has for a name. Reads files, which no
    /// runtime should wait for.
    async fn prepare(self: &Arc<Self>, name: Name) -> Result<(TokioResolver, Vec<IpAddr>), Fault> {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let family = this.settings.family;
            let wanted = [family.has_ipv4(), family.has_ipv6()];
            let hosts = Hosts::from_system().unwrap_or_default();
            let found = FAMILIES.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
            let found = found
                .filter_map(|(kind, _)| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
                .flat_map(|lookup| records::ips(&lookup))
                .collect();
            Ok((this.client()?, found))
        });
        read.await.unwrap_or_else(|_| Err(Fault::new("failed", "the proxy is stopping")))
    }

    fn client(&self) -> Result<TokioResolver, Fault> {
        let mut client = self.client.lock();
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let (config, mut options) = self.config();
        options.timeout = self.settings.timeout;
        options.attempts = self.settings.attempts.max(1) as usize - 1;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let built = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| Fault::new("failed", error.to_string()))?;
        *client = Some(built.clone());
        Ok(built)
    }

    fn config(&self) -> (ResolverConfig, ResolverOpts) {
        let server = |ip: IpAddr, port: u16| {
            let at = |mut connection: ConnectionConfig| {
                connection.port = port;
                connection
            };
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            NameServerConfig::new(ip, true, connections)
        };
        let of = |servers: Vec<NameServerConfig>| {
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
        };
        let servers = &self.settings.servers;
        if !servers.is_empty() {
            return of(servers.iter().map(|at| server(at.ip(), at.port())).collect());
        }
        system_conf::read_system_conf().unwrap_or_else(|error| {
            if !self.complained.swap(true, Ordering::Relaxed) {
                let message = "/etc/resolv.conf cannot be used: 127.0.0.1 is asked for names";
                tracing::warn!(%error, "{message}");
            }
            of(vec![server(IpAddr::from([127, 0, 0, 1]), 53)])
        })
    }

    /// Reads `/etc/resolv.conf` again before the next question if this one was
    /// not answered: the machine may have moved to another network.
    fn forget_after<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        let silent = |fault: &Fault| matches!(fault.reason, "timeout" | "failed" | "refused");
        if answer.as_ref().err().is_some_and(silent) && self.settings.servers.is_empty() {
            *self.client.lock() = None;
        }
        answer
    }

    async fn family(
        &self,
        client: &TokioResolver,
        name: &Name,
        kind: RecordType,
        wanted: bool,
    ) -> Part {
        if !wanted {
            return Part::Unwanted;
        }
        match self.ask(client, name.clone(), kind).await {
            Ok(lookup) => Part::of(&lookup),
            Err(error) if error.is_no_records_found() => Part::None(records::fault(&error)),
            Err(error) => Part::Unanswered(records::fault(&error)),
        }
    }

    async fn ask(
        &self,
        client: &TokioResolver,
        name: Name,
        kind: RecordType,
    ) -> Result<Lookup, NetError> {
        // How long an answer holds is for our own clock to say.
        client.clear_cache();
        let DnsSettings { timeout, attempts, .. } = self.settings;
        let most = timeout.saturating_mul(attempts.max(1)).saturating_mul(MOST_SEARCHED);
        let lookup = client.lookup(name, kind);
        tokio::time::timeout(most, lookup).await.unwrap_or(Err(NetError::Timeout))
    }
}

/// Both families' parts; one that is late is not waited for when the other has
/// addresses.
async fn both(v4: impl Future<Output = Part>, v6: impl Future<Output = Part>) -> [Part; 2] {
    async fn late(part: impl Future<Output = Part>, other: &Part) -> Part {
        if !matches!(other, Part::Some { .. }) {
            return part.await;
        }
        let late = || Part::Unanswered(Fault::new("timeout", "the answer was late"));
        tokio::time::timeout(LATE, part).await.unwrap_or_else(|_| late())
    }
    let (mut v4, mut v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    tokio::select! {
        first = &mut v4 => {
            let second = late(v6, &first).await;
            [first, second]
        }
        first = &mut v6 => {
            let second = late(v4, &first).await;
            [second, first]
        }
    }
}
