package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"relay/node/inbound"
	"relay/node/verify"
	"relay/queue/remote"
)

// senderDNS is the resolver that screening asks. It is not that of deliveries:
// questions that strangers make us ask must not drive the answers for our own mail out of the cache.
//
// Screening has a resolver of its own, so that what strangers make us ask does not drive deliveries'
// answers out of the cache.
type senderDNS struct{ *remote.DNS }

// counted has questions count for the network of the client that causes them.
func (d senderDNS) counted(ctx context.Context) context.Context {
	if a := verify.ClientOf(ctx); a.IsValid() {
		return remote.ForClient(ctx, inbound.ClientNetwork(a))
	}
	return ctx
}

// answered marks the answers that are a no.
func answered[T any](all T, err error) (T, error) {
	if errors.Is(err, remote.ErrNoName) || errors.Is(err, remote.ErrNoData) {
		err = fmt.Errorf("%w: %w", verify.ErrNotFound, err)
	}
	return all, err
}

// TXT implements verify.Resolver.
func (d senderDNS) TXT(ctx context.Context, name string) ([]string, error) {
	return answered(d.DNS.TXT(d.counted(ctx), name))
}

// IPv4 implements verify.Resolver.
func (d senderDNS) IPv4(ctx context.Context, name string) ([]netip.Addr, error) {
	return answered(d.DNS.IPv4(d.counted(ctx), name))
}

// Addresses implements verify.Resolver.
func (d senderDNS) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	return answered(d.DNS.Addresses(d.counted(ctx), strings.ToLower(host)))
}

// Names implements verify.Resolver.
func (d senderDNS) Names(ctx context.Context, a netip.Addr) ([]string, error) {
	return answered(d.DNS.Names(d.counted(ctx), a))
}

// Hosts implements verify.Resolver.
func (d senderDNS) Hosts(ctx context.Context, domain string) ([]string, error) {
	records, err := answered(d.MX(d.counted(ctx), domain))
	slices.SortStableFunc(records, func(a, b remote.Record) int { return int(a.Preference) - int(b.Preference) })
	hosts := make([]string, 0, len(records))
	for _, r := range records {
		hosts = append(hosts, r.Host)
	}
	return hosts, err
}
