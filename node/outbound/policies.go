package outbound

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/queue/remote"
	"relay/queue/remote/mtasts"
	"relay/queue/remote/webguard"
)

const (
	renewEvery  = time.Hour
	keepTimeout = 5 * time.Second
)

// NewPolicies makes the finder of MTA-STS policies of a node. They are kept in the cluster; before cluster version 2 in
// the node's memory alone. port is that of web servers, 0 for their own.
func NewPolicies(r replica.Replica, dns *remote.DNS, web webguard.Options, port int, log *zap.Logger) *mtasts.Finder {
	web.Resolve = dns.Addresses
	client := webguard.New(web)
	return mtasts.NewFinder(mtasts.Config{
		TXT: func(ctx context.Context, name string) ([]string, error) {
			all, err := dns.TXT(ctx, name)
			if errors.Is(err, remote.ErrNoName) || errors.Is(err, remote.ErrNoData) {
				return nil, nil
			}
			return all, err
		},
		Fetch: func(ctx context.Context, domain string) (*mtasts.Policy, error) {
			return mtasts.Fetch(ctx, client, domain, port)
		},
		Store: policyStore{r}, Log: log,
	})
}

// RenewPolicies has the node that leads fetch policies again before they end, until ctx ends.
func RenewPolicies(f *mtasts.Finder, leads func() bool) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				if leads() {
					f.Renew(ctx)
				}
			}
		}
	}
}

// policyStore is the replicated policies as a mtasts.Store.
type policyStore struct{ replica replica.Replica }

// Load implements mtasts.Store.
func (s policyStore) Load(domain string) (k mtasts.Kept, ok bool) {
	var p *pb.Policy
	err := s.replica.View(func(v spool.View) (err error) {
		p, ok, err = v.Policy(domain)
		return err
	})
	if err != nil || !ok {
		return mtasts.Kept{}, false
	}
	return keptPolicy(p)
}

// All implements mtasts.Store.
func (s policyStore) All(each func(domain string, k mtasts.Kept)) error {
	return s.replica.View(func(v spool.View) error {
		return v.Policies(func(p *pb.Policy) {
			if k, ok := keptPolicy(p); ok {
				each(p.Domain, k)
			}
		})
	})
}

// Keep implements mtasts.Store.
func (s policyStore) Keep(ctx context.Context, domain string, k mtasts.Kept) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	res, err := replica.Propose(ctx, s.replica, spool.KindPutPolicy, &pb.PutPolicy{Policy: &pb.Policy{
		Domain: domain, Id: k.Policy.ID, Text: k.Policy.Text(), FetchedMs: k.Fetched.UnixMilli(),
		ExpiresMs: k.Expires.UnixMilli(),
	}})
	if err == nil && res.Code != pb.Code_OK {
		err = fmt.Errorf("the cluster does not keep the policy: %s", res.Text)
	}
	return err
}

func keptPolicy(p *pb.Policy) (mtasts.Kept, bool) {
	policy, err := mtasts.Parse(p.Text)
	if err != nil {
		return mtasts.Kept{}, false
	}
	policy.ID = p.Id
	return mtasts.Kept{
		Policy: policy, Fetched: time.UnixMilli(p.FetchedMs), Expires: time.UnixMilli(p.ExpiresMs),
	}, true
}
