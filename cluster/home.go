package cluster

import (
	"slices"

	"relay/cluster/datadir"
)

// A process that registered from this very data directory, on this machine since it
// was booted, is dead when another one holds the directory's lock. So a node that was
// killed need not wait until its former session has run out, whatever its address: a
// name may mean another machine elsewhere, and an address may have been moved. Only a
// virtual machine that was cloned with its memory seems to be its original here, and
// there the address would, too.

// homeOf names this machine since its boot, and the log's file. Empty: not known.
func (c *Cluster) homeOf() string {
	boot := datadir.BootID()
	if boot == "" || c.born == "" {
		return ""
	}
	return boot + " " + c.born
}

// settleHome forgets the registrations that were made elsewhere, or by a copy.
func (c *Cluster) settleHome() {
	home := c.homeOf()
	c.promise.Note(func(p *datadir.Promised) {
		if home == "" || p.Home != home {
			p.Home, p.Here = home, nil
		}
	})
	c.here = c.promise.Look().Here
}

// wasHere reports whether a session was registered by a process that ran here.
func (c *Cluster) wasHere(epoch uint64) bool { return epoch != 0 && c.former.Load() == epoch }

// recogniseFormer takes the word of another node for which registration a session is
// of: the state has both, and they never change.
func (c *Cluster) recogniseFormer(r helloReply) {
	if r.Rival != nil && r.Epoch == r.Rival.Epoch && slices.Contains(c.here, r.Nonce) {
		c.former.Store(r.Epoch)
	}
}
