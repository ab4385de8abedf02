package datadir

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/disk"
	raftlog "relay/cluster/disk/log"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// survey reads the members and the last index from stopped data.
func (d *Data) survey(node string) (Recovered, error) {
	r := Recovered{Node: node, Applied: d.Store.Applied()}
	last, err := d.Log.LastIndex()
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
func (d *Data) lastTerm(last uint64) (uint64, error) {
	if last > 0 && last >= d.Store.Applied() {
		var l raft.Log
		err := d.Log.GetLog(last, &l)
		return l.Term, err
	}
	snaps, err := d.Store.Snapshots().List()
	if err != nil || len(snaps) == 0 {
		return 0, err
	}
	return snaps[0].Term, nil
}

// members finds the latest configuration: of the newest snapshot, or of an
// entry behind it.
func (d *Data) members() ([]raft.Server, error) {
	var servers []raft.Server
	var from uint64
	snaps, err := d.Store.Snapshots().List()
	if err != nil {
		return nil, err
	}
	if len(snaps) > 0 {
		servers, from = snaps[0].Configuration.Servers, snaps[0].Index
	}
	first, err := d.Log.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := d.Log.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := max(from+1, first); i <= last && i > 0; i++ {
		var l raft.Log
		if err := d.Log.GetLog(i, &l); err != nil {
			return nil, err
		}
		if l.Type == raft.LogConfiguration {
			servers = raft.DecodeConfiguration(l.Data).Servers
		}
	}
	return servers, nil
}

// Data is a node's data on disk: the store and the log.
type Data struct {
	Store *disk.Store
	Log   *raftlog.Log
}

// OpenData opens store and log of a data directory; fatal hears when they can't go on.
func OpenData(dir string, t tuning.Tuning, log *zap.Logger, o disk.Options, slow func(func() error) error,
	fatal func(error)) (*Data, error) {
	d := &Data{}
	var err error
	d.Log, err = raftlog.Open(filepath.Join(dir, LogDir), raftlog.Options{
		Log: log, Fatal: fatal, GrowTo: t.GrowTo, StallAfter: t.StallAfter, CacheBytes: t.LogCache, Slow: slow,
		CacheFor: 2 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	o.Log, o.Fatal, o.MemTableSize, o.CacheSize = log, fatal, t.MemTable, t.BlockCache
	o.OnInstall, o.TermAt = d.Log.Guard, d.Log.TermAt
	o.OldestLog = func() uint64 {
		first, err := d.Log.FirstIndex()
		if err != nil {
			return 0
		}
		return first
	}
	if d.Store, err = disk.Open(filepath.Join(dir, stateDir), o); err != nil {
		return nil, errors.Join(err, d.Log.Close())
	}
	if err := d.contiguous(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// contiguous checks that the log goes on where the store ends. If the store's
// directory was lost, raft would fail in the middle of its start.
func (d *Data) contiguous() error {
	durable, err := d.Store.Durable()
	if err != nil {
		return err
	}
	first, err := d.Log.FirstIndex()
	if err != nil {
		return err
	}
	if first > durable+1 {
		return fmt.Errorf("%w: the log begins at %d, but the store ends at %d: move the data directory away and join again "+
			"with a token",
			fault.ErrLogLost, first, durable)
	}
	return nil
}

// Close closes store and log.
func (d *Data) Close() error {
	return errors.Join(d.Store.Close(), d.Log.Close())
}

// clusterRecord reads the record of a stopped node's store, nil where it has none.
func (d *Data) clusterRecord() (record *pb.Cluster, err error) {
	err = d.Store.View(func(v spool.View) error {
		one, there, err := v.Cluster()
		if there {
			record = one
		}
		return err
	})
	return record, err
}

// Term is the newest term that the log knows of.
func (d *Data) Term() (uint64, error) {
	term, err := d.Log.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() == "not found" {
		return 0, nil
	}
	return term, err
}

// Last is the index of the newest entry that is on the disk, in the log or in
// the store.
func (d *Data) Last() (uint64, error) {
	last, err := d.Log.LastIndex()
	if err != nil {
		return 0, err
	}
	durable, err := d.Store.Durable()
	return max(last, durable), err
}
