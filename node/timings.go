package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay/queue"
)

// timings are the histograms of what clients and next hops wait for.
type timings struct {
	accept, commit, delivery, login prometheus.Histogram
}

func newTimings() *timings {
	// From 0.5 ms to a minute, each bound twice the one before.
	bounds := prometheus.ExponentialBuckets(0.0005, 2, 18)
	one := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds})
	}
	return &timings{
		accept: one("relay_accept_seconds",
			"Time from the last octet of a message that a client handed in to the answer 250, replication to a "+
				"majority included."),
		commit: one("relay_commit_seconds",
			"Time that the command which accepts a message took until a majority of the nodes had it on disk."),
		delivery: one("relay_delivery_seconds",
			"Time of one attempt to deliver a message to a next hop or a mailbox, connecting included, whatever its outcome."),
		login: one("relay_pop3_login_seconds",
			"Time that POP3 logins which succeeded took, with hashing a password and the mailbox lock that holds in the "+
				"whole cluster."),
	}
}

func (t *timings) all() []prometheus.Collector {
	return []prometheus.Collector{t.accept, t.commit, t.delivery, t.login}
}

// since observes the time from an instant until now. A nil histogram or a zero
// instant is ignored.
func since(h prometheus.Histogram, begin time.Time) {
	if h != nil && !begin.IsZero() {
		h.Observe(time.Since(begin).Seconds())
	}
}

// timedAgent observes attempts.
type timedAgent struct {
	queue.Agent
	took prometheus.Histogram
}

// Deliver implements queue.Agent.
func (a *timedAgent) Deliver(ctx context.Context, job *queue.Job) []queue.Verdict {
	begin := time.Now()
	verdicts := a.Agent.Deliver(ctx, job)
	since(a.took, begin)
	return verdicts
}
