package node

import (
	"bytes"
	"context"
	"errors"
	"time"

	"relay/node/admin"
	"relay/node/tlsreport"
	"relay/queue/remote"
	"relay/queue/remote/tlsrpt"
	"relay/queue/remote/webguard"
)

const reportTime = 30 * time.Second // to take in one report

// tally makes the reporter where the configuration wants one, and returns what it is told of sessions by; nil without.
func (n *Node) tally(hostname string) func(*tlsrpt.Session) {
	if !n.conf.Delivery.TLSReports {
		return nil
	}
	n.reporter = tlsreport.New(tlsreport.Config{
		Replica: n.cluster, Node: n.conf.Node.ID, Hostname: hostname, Leads: n.cluster.Leads, Log: n.log.Named("tlsreport"),
		TXT: n.textRecords, Web: n.webClient, Submit: n.submitReport,
	})
	return n.reporter.Tally
}

func (n *Node) textRecords(ctx context.Context, name string) ([]string, error) {
	all, err := n.senderDNS.TXT(ctx, name)
	if errors.Is(err, remote.ErrNoName) || errors.Is(err, remote.ErrNoData) {
		return nil, nil
	}
	return all, err
}

// webClient asks web servers that strangers name.
func (n *Node) webClient() *webguard.Client {
	roots, err := n.conf.Delivery.HTTPSRoots()
	if err != nil {
		roots = nil // it was read at the start; the system's are no weaker
	}
	return webguard.New(webguard.Options{Roots: roots, Loopback: n.conf.Delivery.LoopbackHops,
		Resolve: n.senderDNS.Addresses})
}

func (n *Node) submitReport(ctx context.Context, to string, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	_, err := n.submit(ctx, "", []string{to}, bytes.NewReader(message), admin.By{Who: "tls-report"})
	return err
}
