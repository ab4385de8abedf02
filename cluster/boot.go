package cluster

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
	raftlog "relay/cluster/disk/log"
	"relay/cluster/internal/wire"
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
	if err := checkNode(o.ID, o.Advertise); err != nil {
		return err
	}
	if err := vacant(o.Dir); err != nil {
		return err
	}
	if o.Name == "" {
		o.Name = "relay"
	}
	id := &identity{
		Cluster: ulid.Make().String(), Name: o.Name, Node: o.ID, Advertise: o.Advertise,
		Log: newLogName(), Fresh: true, Bootstrap: true,
	}
	ca, err := newAuthority(o.Name, time.Now())
	if err != nil {
		return fmt.Errorf("cluster: make the CA: %w", err)
	}
	key, csr, err := newRequest(o.ID)
	if err != nil {
		return fmt.Errorf("cluster: make the node's key: %w", err)
	}
	request, err := parseRequest(csr)
	if err != nil {
		return fmt.Errorf("cluster: make the node's key: %w", err)
	}
	cert, err := ca.sign(request, subject{cluster: id.Cluster, node: o.ID, now: time.Now(), life: longLife})
	if err != nil {
		return fmt.Errorf("cluster: sign the node's certificate: %w", err)
	}
	caKey, err := ca.keyPEM()
	if err != nil {
		return err
	}
	id.CA, id.CAKey, id.Cert, id.Key = string(ca.certPEM()), string(caKey), string(cert), string(key)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := id.save(o.Dir); err != nil {
		return fmt.Errorf("cluster: write the identity: %w", err)
	}
	o.Log.Info("cluster: made", zap.String("cluster", id.Cluster), zap.String("node", id.Node))
	return nil
}

func checkNode(id, advertise string) error {
	if !wire.ValidName(id) {
		return fmt.Errorf("cluster: %q is no node id: 1 to 63 letters, digits, dots, hyphens and underscores, beginning "+
			"with a letter or digit", id)
	}
	if _, port, err := net.SplitHostPort(advertise); err != nil || port == "" || port == "0" {
		return fmt.Errorf("cluster: %q is no address that others can reach: set [cluster] advertise to host:port", advertise)
	}
	return nil
}

func newLogName() string {
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
	Tuning Tuning
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
	return offline(ctx, o, func(_ *nodeData, _ *identity, r Recovered) (Recovered, error) { return r, nil })
}

// Recover writes a new membership into a stopped node's log after a majority
// is gone for ever. Everything in the log counts as committed. It must be run
// with the same peers on every survivor. From cluster version 2 on it begins a
// generation: nodes that were left behind are refused, and end where they meet a
// survivor. Survivors whose logs contradict each other do not go on together: one
// of them ends when it is sent the other's state.
func Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	return offline(ctx, o, func(d *nodeData, id *identity, r Recovered) (Recovered, error) {
		var want raft.Configuration
		found := false
		for _, p := range o.Peers {
			if err := checkNode(p.ID, p.Address); err != nil {
				return r, err
			}
			found = found || p.ID == r.Node
			want.Servers = append(want.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Address)})
		}
		if !found {
			return r, fmt.Errorf("cluster: this is node %s: name it among the peers, too", r.Node)
		}
		conf := o.Tuning.withDefaults().raftConfig(r.Node, o.Log)
		_, trans := raft.NewInmemTransport("")
		defer trans.Close()
		if err := raft.RecoverCluster(conf, d.store, d.log, d.log, d.store.Snapshots(), trans, want); err != nil {
			return r, fmt.Errorf("cluster: recover: %w", err)
		}
		r.Applied = max(r.Applied, d.store.Applied())
		// The identity comes last: a crash before it leaves the recovery to be done
		// again, as the same generation.
		record, err := d.clusterRecord()
		if err == nil {
			err = id.succeed(record, o, r.Before)
		}
		if err == nil {
			err = id.save(o.Dir)
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
func offline(ctx context.Context, o RecoverOptions, fn func(*nodeData, *identity,
	Recovered) (Recovered, error)) (r Recovered, err error) {
	if err := ctx.Err(); err != nil {
		return r, err
	}
	id, err := loadIdentity(o.Dir)
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
	d, err := openNodeData(o.Dir, o.Tuning.withDefaults(), o.Log, disk.Options{}, nil, func(err error) {
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
		err = errors.Join(err, d.close())
	}()
	if err := id.settle(o.Dir, d.log, nil); err != nil {
		return r, err
	}
	if r, err = d.survey(id.Node); err != nil {
		return r, err
	}
	if p, err := readPromise(filepath.Join(o.Dir, promiseFile)); err == nil {
		r.Diverged = p.now.Diverged
		_ = p.close()
	}
	return fn(d, id, r)
}

// survey reads the members and the last index from stopped data.
func (d *nodeData) survey(node string) (Recovered, error) {
	r := Recovered{Node: node, Applied: d.store.Applied()}
	last, err := d.log.LastIndex()
	if err != nil {
		return r, err
	}
	r.Applied = max(r.Applied, last)
	if r.Term, err = d.lastTerm(last); err != nil {
		return r, err
	}
	servers, err := d.members()
	for _, s := range servers {
		r.Before = append(r.Before, Peer{string(s.ID), string(s.Address)})
	}
	return r, err
}

// lastTerm is the term of the newest entry, in the log or in the store.
func (d *nodeData) lastTerm(last uint64) (uint64, error) {
	if last > 0 && last >= d.store.Applied() {
		var l raft.Log
		err := d.log.GetLog(last, &l)
		return l.Term, err
	}
	snaps, err := d.store.Snapshots().List()
	if err != nil || len(snaps) == 0 {
		return 0, err
	}
	return snaps[0].Term, nil
}

// members finds the latest configuration: of the newest snapshot, or of an
// entry behind it.
func (d *nodeData) members() ([]raft.Server, error) {
	var servers []raft.Server
	var from uint64
	snaps, err := d.store.Snapshots().List()
	if err != nil {
		return nil, err
	}
	if len(snaps) > 0 {
		servers, from = snaps[0].Configuration.Servers, snaps[0].Index
	}
	first, err := d.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := d.log.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := max(from+1, first); i <= last && i > 0; i++ {
		var l raft.Log
		if err := d.log.GetLog(i, &l); err != nil {
			return nil, err
		}
		if l.Type == raft.LogConfiguration {
			servers = raft.DecodeConfiguration(l.Data).Servers
		}
	}
	return servers, nil
}

// nodeData is a node's data on disk: the store and the log.
type nodeData struct {
	store *disk.Store
	log   *raftlog.Log
}

func openNodeData(dir string, t Tuning, log *zap.Logger, o disk.Options, slow func(func() error) error,
	fatal func(error)) (*nodeData, error) {
	d := &nodeData{}
	var err error
	d.log, err = raftlog.Open(filepath.Join(dir, logDir), raftlog.Options{
		Log: log, Fatal: fatal, GrowTo: t.GrowTo, StallAfter: t.StallAfter, CacheBytes: t.LogCache, Slow: slow,
	})
	if err != nil {
		return nil, err
	}
	o.Log, o.Fatal, o.MemTableSize, o.CacheSize = log, fatal, t.MemTable, t.BlockCache
	o.OnInstall, o.TermAt = d.log.Guard, d.log.TermAt
	o.OldestLog = func() uint64 {
		first, err := d.log.FirstIndex()
		if err != nil {
			return 0
		}
		return first
	}
	if d.store, err = disk.Open(filepath.Join(dir, stateDir), o); err != nil {
		return nil, errors.Join(err, d.log.Close())
	}
	if err := d.contiguous(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// contiguous checks that the log goes on where the store ends. If the store's
// directory was lost, raft would fail in the middle of its start.
func (d *nodeData) contiguous() error {
	durable, err := d.store.Durable()
	if err != nil {
		return err
	}
	first, err := d.log.FirstIndex()
	if err != nil {
		return err
	}
	if first > durable+1 {
		return fmt.Errorf("%w: the log begins at %d, but the store ends at %d: move the data directory away and join again "+
			"with a token",
			ErrLogLost, first, durable)
	}
	return nil
}

func (d *nodeData) close() error {
	return errors.Join(d.store.Close(), d.log.Close())
}
