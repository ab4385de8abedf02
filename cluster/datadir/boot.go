package datadir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"relay/cluster/disk"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/tuning"
)

// InitOptions describe a new cluster and its first node.
type InitOptions struct {
	ID        string // of the node, for life
	Name      string // of the cluster, for people; empty: "relay"
	Dir       string
	Advertise string // host:port at which others will reach the node
	Log       *zap.Logger
}

// Init makes a cluster of one node in an empty directory: its CA, the node's
// certificate, and, at the first Open, a raft log with one voter. The identity
// file is written last and as a whole: before that the directory is as if
// nothing had happened. ErrInUse: there is a node in the directory.
func Init(ctx context.Context, o InitOptions) error {
	if err := CheckNames(o.ID, o.Advertise); err != nil {
		return err
	}
	if err := Vacant(o.Dir); err != nil {
		return err
	}
	if o.Name == "" {
		o.Name = "relay"
	}
	id := &Identity{
		Cluster: ulid.Make().String(), Name: o.Name, Node: o.ID, Advertise: o.Advertise,
		Log: NewLogName(), Fresh: true, Bootstrap: true,
	}
	ca, err := pki.NewAuthority(o.Name, time.Now())
	if err != nil {
		return fmt.Errorf("cluster: make the CA: %w", err)
	}
	key, csr, err := pki.NewRequest(o.ID)
	if err != nil {
		return fmt.Errorf("cluster: make the node's key: %w", err)
	}
	request, err := pki.ParseRequest(csr)
	if err != nil {
		return fmt.Errorf("cluster: make the node's key: %w", err)
	}
	cert, err := ca.Sign(request, pki.Subject{Cluster: id.Cluster, Node: o.ID, Now: time.Now(), Life: pki.LongLife})
	if err != nil {
		return fmt.Errorf("cluster: sign the node's certificate: %w", err)
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	id.CA, id.CAKey, id.Cert, id.Key = string(ca.CertPEM()), string(caKey), string(cert), string(key)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := id.Save(o.Dir); err != nil {
		return fmt.Errorf("cluster: write the identity: %w", err)
	}
	o.Log.Info("cluster: made", zap.String("cluster", id.Cluster), zap.String("node", id.Node))
	return nil
}

// CheckNames refuses ids and addresses that a node can't have.
func CheckNames(id, advertise string) error {
	if !wire.ValidName(id) {
		return fmt.Errorf("cluster: %q is no node id: 1 to 63 letters, digits, dots, hyphens and underscores, beginning "+
			"with a letter or digit", id)
	}
	if _, port, err := net.SplitHostPort(advertise); err != nil || port == "" || port == "0" {
		return fmt.Errorf("cluster: %q is no address that others can reach: set [cluster] advertise to host:port", advertise)
	}
	return nil
}

// NewLogName makes a name for a raft log.
func NewLogName() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Peer is a member as Recover is told of it.
type Peer struct {
	ID      string
	Address string
}

// RecoverOptions say what the cluster shall consist of from now on.
type RecoverOptions struct {
	Dir    string
	ID     string // of the node, where the caller knows it: another node's directory is refused
	Peers  []Peer // all voters to be, this node among them
	Log    *zap.Logger
	Tuning tuning.Tuning
}

// Recovered says what Recover found.
type Recovered struct {
	Node    string
	Before  []Peer // the members as the log knew them
	Applied uint64 // index of the last entry
	Term    uint64 // of the last entry: among survivors the higher one counts, and of those the higher index
	// Diverged says how the state differs from the others', as Cluster.Diverged: to be
	// recovered from only where nobody else is left.
	Diverged string
	// Generation is the cluster's name in certificates since the recovery; empty
	// before cluster version 2, where lost nodes are not refused.
	Generation string
}

// Inspect reads what a stopped node knows: the members, and how far its log
// goes. It changes nothing but what opening a store does.
func Inspect(ctx context.Context, o RecoverOptions) (Recovered, error) {
	return offline(ctx, o, func(_ *Data, _ *Identity, r Recovered) (Recovered, error) { return r, nil })
}

// Recover writes a new membership into a stopped node's log after a majority
// is gone for ever. Everything in the log counts as committed. It must be run
// with the same peers on every survivor. From cluster version 2 on it begins a
// generation: nodes that were left behind are refused, and end where they meet a
// survivor. Survivors whose logs contradict each other do not go on together: one
// of them ends when it is sent the other's state.
func Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	return offline(ctx, o, func(d *Data, id *Identity, r Recovered) (Recovered, error) {
		var want raft.Configuration
		found := false
		for _, p := range o.Peers {
			if err := CheckNames(p.ID, p.Address); err != nil {
				return r, err
			}
			found = found || p.ID == r.Node
			want.Servers = append(want.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Address)})
		}
		if !found {
			return r, fmt.Errorf("cluster: this is node %s: name it among the peers, too", r.Node)
		}
		conf := o.Tuning.WithDefaults().RaftConfig(r.Node, o.Log)
		_, trans := raft.NewInmemTransport("")
		defer trans.Close()
		if err := raft.RecoverCluster(conf, d.Store, d.Log, d.Log, d.Store.Snapshots(), trans, want); err != nil {
			return r, fmt.Errorf("cluster: recover: %w", err)
		}
		r.Applied = max(r.Applied, d.Store.Applied())
		// The identity comes last: a crash before it leaves the recovery to be done
		// again, as the same generation.
		record, err := d.clusterRecord()
		if err == nil {
			err = id.succeed(record, o, r.Before)
		}
		if err == nil {
			err = id.Save(o.Dir)
		}
		if err != nil {
			return r, fmt.Errorf("cluster: recover: the membership is rebuilt, the identity is not, so do it again: %w", err)
		}
		r.Generation = id.Generation
		o.Log.Warn("cluster: membership rebuilt by hand", zap.Any("peers", o.Peers), zap.Uint64("applied", r.Applied))
		return r, nil
	})
}

// offline opens a node's data without the network.
func offline(ctx context.Context, o RecoverOptions, fn func(*Data, *Identity,
	Recovered) (Recovered, error)) (r Recovered, err error) {
	if err := ctx.Err(); err != nil {
		return r, err
	}
	id, err := Load(o.Dir)
	if err != nil {
		return r, err
	}
	if err := id.isNode(o.ID, o.Dir); err != nil {
		return r, err
	}
	if id.Fresh {
		return r, fmt.Errorf("cluster: node %s never ran: there is nothing to recover", id.Node)
	}
	failed := make(chan error, 1)
	d, err := OpenData(o.Dir, o.Tuning.WithDefaults(), o.Log, disk.Options{}, nil, func(err error) {
		select {
		case failed <- err:
		default:
		}
	})
	if err != nil {
		return r, err
	}
	defer func() {
		select {
		case bad := <-failed:
			err = errors.Join(err, bad)
		default:
		}
		err = errors.Join(err, d.Close())
	}()
	if err := id.Settle(o.Dir, d.Log, nil); err != nil {
		return r, err
	}
	if r, err = d.survey(id.Node); err != nil {
		return r, err
	}
	if p, err := readPromise(filepath.Join(o.Dir, promiseFile)); err == nil {
		r.Diverged = p.now.Diverged
		_ = p.Close()
	}
	return fn(d, id, r)
}
