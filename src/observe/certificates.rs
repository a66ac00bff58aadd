//! Certificates of the listeners: until when they are valid, and their reloads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::metrics::{Label, Metrics};

/// Of every listener with TLS. Cheap to clone: all clones tell the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Certificates(Arc<Mutex<BTreeMap<Arc<str>, OfListener>>>);

#[derive(Debug)]
struct OfListener {
    /// By file: seconds of the epoch.
    not_after: BTreeMap<Arc<str>, i64>,
    ok: u64,
    failed: u64,
    last_ok: bool,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByFile {
    listener: Label,
    certificate: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByListener {
    listener: Label,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByResult {
    listener: Label,
    result: &'static str,
}

/// What became of a reload of certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateReload {
    /// New ones are in use.
    Changed,
    /// The files say what is in use already. It is not counted.
    Unchanged,
    /// The files cannot be used.
    Failed,
}

impl Metrics {
    /// A listener shows the certificates of these files, each with the end of its
    /// validity in seconds of the epoch; what was told of its others is forgotten.
    pub fn certificates_shown<F: AsRef<str>>(
        &self,
        listener: &Arc<str>,
        shown: impl IntoIterator<Item = (F, i64)>,
    ) {
        let shown = shown.into_iter().map(|(file, end)| (file.as_ref().into(), end));
        let not_after = shown.collect();
        self.certificates().update(listener, |of| of.not_after = not_after);
    }

    /// The listeners with TLS are these: what was told of others is forgotten.
    pub fn certificates_only_of(&self, listeners: &[Arc<str>]) {
        self.certificates().0.lock().retain(|listener, _| listeners.contains(listener));
    }

    /// Whether the certificates of a listener are those in its files, as far as is
    /// known: a reload of the configuration may have brought others.
    pub fn certificates_current(&self, listener: &Arc<str>, current: bool) {
        self.certificates().update(listener, |of| of.last_ok = current);
    }

    /// The certificates of a listener were read again.
    pub fn certificates_reloaded(&self, listener: &Arc<str>, reload: CertificateReload) {
        self.certificates().update(listener, |of| {
            of.ok += u64::from(reload == CertificateReload::Changed);
            of.failed += u64::from(reload == CertificateReload::Failed);
            of.last_ok = reload != CertificateReload::Failed;
        });
    }
}

impl Certificates {
    fn update(&self, listener: &Arc<str>, change: impl FnOnce(&mut OfListener)) {
        let new = || OfListener { not_after: BTreeMap::new(), ok: 0, failed: 0, last_ok: true };
        change(self.0.lock().entry(listener.clone()).or_insert_with(new));
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.lock();
        if all.is_empty() {
            return Ok(());
        }
        let (seconds, gauge) = (Some(&Unit::Seconds), MetricType::Gauge);
        let help = "Until when a certificate is valid, since the epoch.";
        let mut ends = encoder.encode_descriptor("certificate_not_after", help, seconds, gauge)?;
        for (listener, of) in &*all {
            for (file, not_after) in &of.not_after {
                let (listener, certificate) = (Label(listener.clone()), Label(file.clone()));
                let labels = ByFile { listener, certificate };
                ConstGauge::new(*not_after).encode(ends.encode_family(&labels)?)?;
            }
        }
        let help = "Reloads of certificates, by result.";
        let counter = MetricType::Counter;
        let mut reloads = encoder.encode_descriptor("certificate_reloads", help, None, counter)?;
        for (listener, of) in &*all {
            for (result, count) in [("ok", of.ok), ("failed", of.failed)] {
                let labels = ByResult { listener: Label(listener.clone()), result };
                ConstCounter::new(count).encode(reloads.encode_family(&labels)?)?;
            }
        }
        let help = "Whether the certificates in use are those in the files.";
        let name = "certificate_last_reload_ok";
        let mut last = encoder.encode_descriptor(name, help, None, gauge)?;
        for (listener, of) in &*all {
            let labels = ByListener { listener: Label(listener.clone()) };
            ConstGauge::new(i64::from(of.last_ok)).encode(last.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_told_and_what_is_gone_is_not() {
        let metrics = Metrics::default();
        assert!(!metrics.render().contains("certificate"));
        let (public, internal): (Arc<str>, Arc<str>) = ("public".into(), "internal".into());
        metrics.certificates_shown(&public, [("a.crt", 1_800_000_000), ("b.crt", 7)]);
        metrics.certificates_shown(&internal, [("a.crt", 5)]);
        metrics.certificates_reloaded(&public, CertificateReload::Changed);
        metrics.certificates_reloaded(&public, CertificateReload::Unchanged);
        metrics.certificates_reloaded(&public, CertificateReload::Failed);
        let expected = "\
            # HELP tollgate_certificate_not_after_seconds \
            Until when a certificate is valid, since the epoch.\n\
            # TYPE tollgate_certificate_not_after_seconds gauge\n\
            # UNIT tollgate_certificate_not_after_seconds seconds\n\
            tollgate_certificate_not_after_seconds{listener=\"internal\",certificate=\"a.crt\"} 5\n\
            tollgate_certificate_not_after_seconds\
            {listener=\"public\",certificate=\"a.crt\"} 1800000000\n\
            tollgate_certificate_not_after_seconds{listener=\"public\",certificate=\"b.crt\"} 7\n\
            # HELP tollgate_certificate_reloads Reloads of certificates, by result.\n\
            # TYPE tollgate_certificate_reloads counter\n\
            tollgate_certificate_reloads_total{listener=\"internal\",result=\"ok\"} 0\n\
            tollgate_certificate_reloads_total{listener=\"internal\",result=\"failed\"} 0\n\
            tollgate_certificate_reloads_total{listener=\"public\",result=\"ok\"} 1\n\
            tollgate_certificate_reloads_total{listener=\"public\",result=\"failed\"} 1\n\
            # HELP tollgate_certificate_last_reload_ok \
            Whether the certificates in use are those in the files.\n\
            # TYPE tollgate_certificate_last_reload_ok gauge\n\
            tollgate_certificate_last_reload_ok{listener=\"internal\"} 1\n\
            tollgate_certificate_last_reload_ok{listener=\"public\"} 0\n";
        let text = metrics.render();
        assert!(text.contains(expected), "{text}");

        metrics.certificates_shown(&public, [("a.crt", 1_900_000_000)]);
        metrics.certificates_reloaded(&public, CertificateReload::Unchanged);
        metrics.certificates_only_of(&[public]);
        let text = metrics.render();
        assert!(text.contains("{listener=\"public\",certificate=\"a.crt\"} 1900000000\n"));
        assert!(text.contains("last_reload_ok{listener=\"public\"} 1\n"));
        assert!(!text.contains("b.crt") && !text.contains("internal"), "{text}");
    }
}
