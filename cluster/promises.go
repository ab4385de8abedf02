package cluster

import (
	"errors"
	"fmt"
	"path/filepath"

	"relay/cluster/datadir"
	"relay/cluster/fault"
)

// probe writes down what this node has promised by now. A node whose disk
// hangs or fails must lose its session, even where the log is on another disk:
// so each renewal of a session waits for it.
func (c *Cluster) probe() error {
	term := c.raft.CurrentTerm()
	lastTerm, last := c.lastEntry()
	peers := c.book.Marks(c.trans.Acks.Copy())
	return c.promise.Write(func(p *datadir.Promised) {
		p.Peers = datadir.Furthest(p.Peers, peers)
		p.Version = max(p.Version, c.Version())
		p.Term, p.LastTerm, p.LastIndex = max(p.Term, term), lastTerm, last
		p.Commit, p.Applied = max(p.Commit, c.raft.CommitIndex()), c.store.Applied()
	})
}

// promiseOf opens the promise of a data directory, and checks that its log is
// not older.
func (c *Cluster) promiseOf(d *datadir.Data) (err error) {
	var first datadir.Promised
	if first.Term, err = d.Term(); err != nil {
		return err
	}
	last, err := d.Last()
	if err != nil {
		return err
	}
	first.Applied, first.Acked.Epoch = d.Store.Applied(), c.id.Joined
	if c.promise, err = datadir.OpenPromise(c.o.Dir, c.id, first); err != nil {
		return err
	}
	if p := c.promise.Look(); first.Term < p.Term || last < p.Commit {
		return errors.Join(fmt.Errorf("%w: %s goes to entry %d in term %d, but the node knew entry %d and term %d before: "+
			"the log was restored from an older copy; move the data directory away and join again with a token",
			fault.ErrLogLost, filepath.Join(c.o.Dir, datadir.LogDir), last, first.Term, p.Commit, p.Term), c.promise.Close())
	}
	c.checkBirth()
	c.settleHome()
	return nil
}
