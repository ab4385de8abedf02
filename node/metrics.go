package node

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"relay/cluster/spool"
	"relay/node/doctor"
	"relay/node/inbound"
	"relay/queue"
	"relay/queue/remote"
	"relay/queue/replyclass"
)

// metrics publishes the counters of one node's parts under a registry of its
// own: several nodes may run in one process. Nothing is counted twice: each
// scrape reads the parts' own counters.
type metrics struct{ registry *prometheus.Registry }

func newMetrics(n *Node) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	m.registry.MustRegister(collectors.NewGoCollector(), process, &nodeCollector{n})
	m.registry.MustRegister(n.timings.all()...)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// nodeCollector reads a node's counters at each scrape.
type nodeCollector struct{ n *Node }

// Describe implements prometheus.Collector: the collector is unchecked, since
// the set of destinations changes.
func (c *nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(out chan<- prometheus.Metric) {
	c.protocols(out)
	for _, f := range c.n.inbound.Filters() {
		for name, n := range map[string]int64{
			"filtered": f.Stats.Messages.Load(), "refused": f.Stats.Refused.Load(),
			"discarded": f.Stats.Discards.Load(), "failed": f.Stats.Failed.Load(),
		} {
			counterOf(out, "relay_milter_total",
				"Messages by what a content filter said.", n, "filter", f.Address(), "result", name)
		}
	}
	if a := c.n.acme; a != nil {
		counterOf(out, "relay_acme_orders_total", "Certificates ordered by this node.", a.Orders.Load(), "result", "ordered")
		counterOf(out, "relay_acme_orders_total", "Certificates ordered by this node.", a.Failures.Load(), "result", "failed")
		for _, one := range a.InUse() {
			certificate(out, "acme", one.Name, one.Leaf.NotAfter)
		}
	}
	in := c.n.inbound.Stats()
	counterOf(out, "relay_greylist_deferred_total",
		"Recipients and messages that greylisting put off.", in.GreyDeferred)
	counterOf(out, "relay_greylist_passed_total",
		"Retries that greylisting let through for the first time.", in.GreyPassed)
	const from = "Messages of accounts with an address in From that is not theirs."
	counterOf(out, "relay_from_foreign_total", from, in.FromRefused, "result", "refused")
	counterOf(out, "relay_from_foreign_total", from, in.FromUnsigned, "result", "unsigned")
	counterOf(out, "relay_admin_token_failures_total",
		"Requests to the admin API with a wrong token.", c.n.badTokens.Load())
	c.refusals(out)
	c.certificates(out)
	c.raft(out)
	c.screen(out, in)
	c.queue(out)
	c.spool(out)
	c.storage(out)
	c.doctor(out)
	clock := c.n.cluster.Clock()
	gauge(out, "relay_clock_offset_seconds",
		"How far this node's wall clock is ahead of the cluster's time.", clock.Offset.Seconds())
	gauge(out, "relay_clock_agreement",
		"1 where the clocks of a majority of the members agree with the cluster's time.", truth(clock.Agreement))
	counterOf(out, "relay_state_time_jumps_total",
		"Jumps of the cluster's time that this process has applied.", clock.Jumps)
	gauge(out, "relay_cluster_certificate_expires_timestamp_seconds",
		"When this node's certificate on the cluster port ends; it renews itself.",
		float64(c.n.cluster.CertificateEnds().Unix()))
	gauge(out, "relay_ready", "1 where the node may take traffic.", truth(c.n.Ready() == nil))
	gauge(out, "relay_replica_diverged",
		"1 where this node's state differs from the others': it must be joined anew.", truth(c.n.cluster.Diverged() != ""))
	gauge(out, "relay_disk_free_bytes", "Free space where the data directory is.", float64(c.n.storage.free.Load()))
}

func (c *nodeCollector) protocols(out chan<- prometheus.Metric) {
	for _, l := range c.n.listeners {
		on := []string{"listener", l.Addr().String(), "role", cmp.Or(l.role, l.service)}
		if l.smtp != nil {
			s := l.smtp.Stats()
			counterOf(out, "relay_smtp_connections_total", "SMTP connections accepted.", s.Connections.Load(), on...)
			gauge(out, "relay_smtp_connections", "SMTP connections open.", float64(s.Active.Load()), on...)
			counterOf(out, "relay_smtp_turned_total", "SMTP clients turned away before the greeting.", s.Turned.Load(), on...)
			counterOf(out, "relay_smtp_talked_total",
				"SMTP clients turned away because they talked before the greeting.", s.Talked.Load(), on...)
			counterOf(out, "relay_smtp_messages_total",
				"Messages that SMTP clients handed in and that were answered 250.", s.Messages.Load(), on...)
			counterOf(out, "relay_smtp_messages_refused_total",
				"Messages refused for good (5xx) at the end of their data.", s.MessagesRefused.Load(), on...)
			counterOf(out, "relay_logins_failed_total",
				"Logins with a wrong name or password, by protocol.", s.AuthFailed.Load(), append(on, "protocol", "smtp")...)
			counterOf(out, "relay_smtp_logins_total", "SMTP logins that succeeded.", s.Auth.Load(), on...)
			counterOf(out, "relay_smtp_panics_total",
				"SMTP connections that ended by a fault of the server.", s.Panics.Load(), on...)
			counterOf(out, "relay_smtp_bytes_total", "Octets of the messages that were answered 250.", s.Bytes.Load(), on...)
		}
		if l.pop3 != nil {
			s := l.pop3.Stats()
			counterOf(out, "relay_pop3_connections_total", "POP3 connections accepted.", int64(s.Connections.Load()), on...)
			gauge(out, "relay_pop3_sessions", "POP3 sessions that hold a maildrop.", float64(s.LoggedIn.Load()), on...)
			counterOf(out, "relay_pop3_logins_total", "POP3 logins that succeeded.", int64(s.Logins.Load()), on...)
			counterOf(out, "relay_logins_failed_total",
				"Logins with a wrong name or password, by protocol.",
				int64(s.LoginFailures.Load()), append(on, "protocol", "pop3")...)
			counterOf(out, "relay_pop3_uncommitted_total",
				"Times that the deletions of a POP3 session could not be committed.", int64(s.CommitErrors.Load()), on...)
			counterOf(out, "relay_pop3_panics_total",
				"POP3 sessions that ended by a fault of the server.", int64(s.Panics.Load()), on...)
			counterOf(out, "relay_pop3_in_use_total",
				"POP3 logins refused because another session holds the mailbox.", int64(s.InUse.Load()), on...)
		}
	}
}

func (c *nodeCollector) refusals(out chan<- prometheus.Metric) {
	for kind, n := range c.n.refused.counted() {
		counterOf(out, "relay_refused_total",
			"What clients were not given, by protocol, role of the listener, reason, and class of the reply.", n,
			"protocol", kind.protocol, "role", kind.role, "reason", kind.reason, "class", kind.class)
	}
	s := &c.n.confirm.Stats
	counterOf(out, "relay_refusals_checked_total",
		"Permanent refusals that were looked at again on an up-to-date replica.", s.Found.Load())
	counterOf(out, "relay_refusals_wrong_total",
		"Permanent refusals that an up-to-date replica took back.", s.Wrong.Load())
	counterOf(out, "relay_refusals_deferred_total",
		"Permanent refusals that became temporary because the replica could not be brought up to date in time.",
		s.Unsure.Load())
	counterOf(out, "relay_refusal_reads_total",
		"Reads that brought the replica up to date for refusals; many share one.", s.Reads.Load())
}

// certificate tells when one ends.
func certificate(out chan<- prometheus.Metric, kind, host string, ends time.Time) {
	gauge(out, "relay_certificate_expires_timestamp_seconds",
		"When a certificate ends, as Unix time, by kind: acme, file ([tls]), cluster (this node's, on the cluster port) "+
			"or ca (the cluster's).",
		float64(ends.Unix()), "kind", kind, "host", host)
}

func (c *nodeCollector) certificates(out chan<- prometheus.Metric) {
	certificate(out, "cluster", c.n.conf.Node.ID, c.n.cluster.CertificateEnds())
	seen := map[string]bool{}
	for _, one := range c.n.certs.InUse() {
		name := one.Leaf.Subject.CommonName
		if len(one.Leaf.DNSNames) > 0 {
			name = one.Leaf.DNSNames[0]
		}
		if !seen[name] {
			seen[name] = true
			certificate(out, "file", name, one.Leaf.NotAfter)
		}
	}
	_ = c.n.cluster.View(func(v spool.View) error {
		record, _, err := v.Cluster()
		if block, _ := pem.Decode(record.GetCaCert()); err == nil && block != nil {
			if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
				certificate(out, "ca", record.Name, ca.NotAfter)
			}
		}
		return err
	})
}

// raft tells how this node stands in its cluster.
func (c *nodeCollector) raft(out chan<- prometheus.Metric) {
	s := c.n.cluster.Standing()
	gauge(out, "relay_leader", "1 where this node leads the cluster.", truth(s.Leads))
	gauge(out, "relay_has_leader",
		"1 where this node knows a leader; without one nothing is accepted.", truth(s.Leader != ""))
	gauge(out, "relay_term", "Raft term of this node; it rises with each election.", float64(s.Term))
	gauge(out, "relay_lag_entries",
		"Log entries that this node knows to be committed and has not applied yet.",
		float64(s.Commit-min(s.Commit, s.Applied)))
	gauge(out, "relay_build_info",
		"1, with the version of relayd and of Go, and the highest cluster version that this build knows.", 1,
		"version", c.n.options.Version, "go_version", runtime.Version(), "cluster_version", strconv.Itoa(spool.MaxVersion))
	gauge(out, "relay_cluster_version", "Version of the replicated state.", float64(c.n.cluster.Version()))
}

func (c *nodeCollector) screen(out chan<- prometheus.Metric, s inbound.Stats) {
	counterOf(out, "relay_verified_messages_total",
		"Messages from strangers whose SPF, DKIM and DMARC were looked up.", s.Verified)
	counterOf(out, "relay_verify_refused_total",
		"Messages from strangers that were refused because SPF, DKIM or DMARC of their domain wants it.", s.Refused)
	counterOf(out, "relay_verify_deferred_total",
		"Messages from strangers that were put off because DNS did not say whether SPF, DKIM or DMARC hold.",
		s.Deferred)
	counterOf(out, "relay_dnsbl_refused_total", "Recipients refused to clients on a list in DNS.", s.Listed)
}

func (c *nodeCollector) queue(out chan<- prometheus.Metric) {
	s := c.n.queue.Stats()
	for state, n := range map[string]int{"waiting": s.Waiting, "ready": s.Ready, "active": s.Active, "parked": s.Parked} {
		gauge(out, "relay_queue_owned",
			"Recipients in the queue that this node delivers, by state: waiting, ready, active (being tried), or parked (held).",
			float64(n), "state", state)
	}
	for outcome, n := range map[string]uint64{
		"delivered": s.Totals.Delivered, "deferred": s.Totals.Deferred, "failed": s.Totals.Failed,
		"expired": s.Totals.Expired, "stale": s.Totals.Stale, "discarded": s.Totals.Discarded,
	} {
		counterOf(out, "relay_delivery_verdicts_total",
			"Recipients that this node has tried, by outcome; stale: another node owned the recipient by then.",
			int64(n), "outcome", outcome)
	}
	c.failures(out)
	rules := c.n.outbound.RuleCounts()
	rules["copy"] = uint64(c.n.inbound.Stats().Copied)
	for action, n := range rules {
		counterOf(out, "relay_rule_mail_total",
			"Recipients of new mail that a standing rule decided on at this node, and copies that rules made here, by action.",
			int64(n), "action", action)
	}
	for policy, k := range map[string]*remote.Kept{
		"dane": &c.n.agent.Stats().DANE, "mta-sts": &c.n.agent.Stats().STS, "mta-sts-testing": &c.n.agent.Stats().TestedSTS,
	} {
		for result, n := range map[string]uint64{"met": k.Met.Load(), "missed": k.Missed.Load()} {
			counterOf(out, "relay_delivery_tls_policy_total", "Hosts of domains that publish how mail to them is encrypted, by "+
				"policy, and whether they met it.",
				int64(n), "policy", policy, "result", result)
		}
	}
	counterOf(out, "relay_delivery_logins_refused_total", "Logins of routes that hosts refused to this node.",
		int64(c.n.agent.Stats().LoginsRefused.Load()))
	gauge(out, "relay_delivery_routes_refused",
		"Routes whose login a host refused to this node last: their mail waits.", float64(len(c.n.outbound.RefusedLogins())))
}

// failures tells what the replies to failed attempts mean.
func (c *nodeCollector) failures(out chan<- prometheus.Metric) {
	for outcome, name := range map[queue.Outcome]string{
		queue.Deferred: "deferred", queue.Failed: "failed", queue.Expired: "expired",
	} {
		for class, n := range c.n.queue.Failures(outcome) {
			if class := replyclass.Class(class); class != replyclass.None {
				counterOf(out, "relay_delivery_failures_total",
					"Recipients that this node has tried in vain, by outcome (deferred, failed, expired) and class of the reply: "+
						"what it means, such as bad_address, full, blocklist, rate, greylist, network; node/LOG.md lists them.",
					int64(n), "outcome", name, "class", class.String())
			}
		}
	}
}

// spool reads the replicated counters: the same on every node.
func (c *nodeCollector) spool(out chan<- prometheus.Metric) {
	_ = c.n.cluster.View(func(v spool.View) error {
		for name, metric := range map[string]string{
			spool.CountQueueMessages:   "relay_cluster_queue_messages",
			spool.CountQueueRecipients: "relay_cluster_queue_recipients",
			spool.CountQueueBytes:      "relay_cluster_queue_bytes", spool.CountSpoolMessages: "relay_cluster_spool_messages",
			spool.CountSpoolBytes: "relay_cluster_spool_bytes", spool.CountMailboxMessages: "relay_cluster_mailbox_messages",
			spool.CountHistoryBytes: "relay_cluster_history_bytes", spool.CountAuditBytes: "relay_cluster_audit_bytes",
			spool.CountRules: "relay_cluster_rules",
		} {
			n, err := v.Counter(name)
			if err != nil {
				return err
			}
			gauge(out, metric, clusterHelp(metric), float64(n))
		}
		return nil
	})
}

// storage reads the numbers of this node's log and store. Entries by appends is
// the mean size of a group: how many commands shared one write.
func (c *nodeCollector) storage(out chan<- prometheus.Metric) {
	l, s := c.n.cluster.Metrics()
	emit(out, prometheus.CounterValue, "relay_log_append_seconds_total",
		"Time that writes to the raft log took, syncs included.", l.WriteTime.Seconds(), nil)
	for name, n := range map[string]uint64{
		"relay_log_appends_total": l.Appends, "relay_log_entries_total": l.Appended, "relay_log_bytes_total": l.AppendedBytes,
		"relay_log_moves_total":      l.Moves,
		"relay_log_cache_hits_total": l.CacheHits, "relay_log_cache_misses_total": l.CacheMisses,
		"relay_store_commands_total": s.Commands, "relay_store_batches_total": s.Batches, "relay_store_bytes_total": s.Bytes,
		"relay_store_flushes_total": s.Flushes, "relay_store_stalls_total": s.WriteStalls,
		"relay_store_installs_total": s.Installs,
	} {
		counterOf(out, name, storageHelp(name), int64(n))
	}
	for name, n := range map[string]int64{
		"relay_log_held_bytes": l.Bytes, "relay_log_file_bytes": l.FileBytes,
		"relay_store_disk_bytes": s.DiskBytes, "relay_store_body_bytes": s.BodyBytes,
		"relay_store_body_live_bytes": s.BodyLiveBytes, "relay_store_memtable_bytes": s.MemTableBytes,
		"relay_store_compaction_debt_bytes": s.CompactionDebt,
	} {
		gauge(out, name, storageHelp(name), float64(n))
	}
	gauge(out, "relay_applied_index", "Index of the last command that this node has applied.", float64(s.Applied))
}

// doctor tells what the last examination found, which asked no DNS.
func (c *nodeCollector) doctor(out chan<- prometheus.Metric) {
	all := c.n.examiner.last.Load()
	if all == nil {
		return
	}
	for _, one := range *all {
		value := map[doctor.Severity]float64{doctor.OK: 0, doctor.Warning: 1, doctor.Error: 2}
		if v, ok := value[one.Severity]; ok {
			gauge(out, "relay_doctor_condition",
				"How a condition of 'relayctl doctor' stood within the last minute: 0 well, 1 warning, 2 error. "+
					"Those that can not be judged, and those that DNS is asked about, are not there.", v, "condition", one.Condition)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func gauge(out chan<- prometheus.Metric, name, help string, v float64, label ...string) {
	emit(out, prometheus.GaugeValue, name, help, v, label)
}

func counterOf(out chan<- prometheus.Metric, name, help string, v int64, label ...string) {
	emit(out, prometheus.CounterValue, name, help, float64(v), label)
}

func emit(out chan<- prometheus.Metric, t prometheus.ValueType, name, help string, v float64, label []string) {
	var names, values []string
	for i := 0; i+1 < len(label); i += 2 {
		names, values = append(names, label[i]), append(values, label[i+1])
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), t, v, values...)
}
