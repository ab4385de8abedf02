package cluster

import (
	"errors"
	"fmt"
	"path/filepath"

	"relay/cluster/fault"
)

// probe writes down what this node has promised by now. A node whose disk
// hangs or fails must lose its session, even where the log is on another disk:
// so each renewal of a session waits for it.
func (c *Cluster) probe() error {
	term := c.raft.CurrentTerm()
	lastTerm, last := c.lastEntry()
	peers := c.book.marks(c.trans.acks.copy())
	return c.promise.write(func(p *promised) {
		p.Peers = furthest(p.Peers, peers)
		p.Version = max(p.Version, c.Version())
		p.Term, p.LastTerm, p.LastIndex = max(p.Term, term), lastTerm, last
		p.Commit, p.Applied = max(p.Commit, c.raft.CommitIndex()), c.store.Applied()
	})
}

// promiseOf opens the promise of a data directory, and checks that its log is
// not older.
func (c *Cluster) promiseOf(d *nodeData) (err error) {
	var first promised
	if first.Term, err = d.term(); err != nil {
		return err
	}
	last, err := d.last()
	if err != nil {
		return err
	}
	first.Applied, first.Acked.Epoch = d.store.Applied(), c.id.Joined
	if c.promise, err = openPromise(c.o.Dir, c.id, first); err != nil {
		return err
	}
	if p := c.promise.look(); first.Term < p.Term || last < p.Commit {
		return errors.Join(fmt.Errorf("%w: %s goes to entry %d in term %d, but the node knew entry %d and term %d before: "+
			"the log was restored from an older copy; move the data directory away and join again with a token",
			fault.ErrLogLost, filepath.Join(c.o.Dir, logDir), last, first.Term, p.Commit, p.Term), c.promise.close())
	}
	c.checkBirth()
	c.settleHome()
	return nil
}
