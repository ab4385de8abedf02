package cluster

import (
	"path/filepath"

	"go.uber.org/zap"

	"relay/cluster/datadir"
)

// The file system witnesses that a data directory was copied or restored: files are
// born where that happens, and neither cp, tar nor rsync can set the time. A
// restored directory may have forgotten votes and entries that it acknowledged, and
// nobody else can tell while all nodes that know better are down.
//
// No protocol can detect one case: if every node that knew better is down or cut off,
// a restored directory looks like one that was off. Snapshots of a machine are never
// to be restored into a running cluster; a node whose disk was restored is removed and
// joins anew.

const copiedWords = "its data directory was copied, and not all who may know of a newer one answer: start the " +
	"other nodes, " +
	"or start this one once with 'relayd run --moved' if the directory was moved in order and nothing has run since; " +
	"see \"A node from the past\" in the guide"

// checkBirth compares the log's file with the one that the promise was made
// beside.
func (c *Cluster) checkBirth() {
	c.born = datadir.BirthOf(filepath.Join(c.o.Dir, datadir.LogDir, "raft.db"))
	then := c.promise.Look().Birth
	copied := then != "" && c.born != "" && then[0] == c.born[0] && then != c.born
	if copied && c.o.Moved {
		c.log.Warn("cluster: the data directory was copied, and taken for the newest by --moved")
		copied = false
	}
	c.copied.Store(copied)
	if !copied {
		c.settleIn()
	}
}

// settleIn takes the directory as it lies now for the only one.
func (c *Cluster) settleIn() {
	c.copied.Store(false)
	if c.born != "" {
		c.promise.Note(func(p *datadir.Promised) { p.Birth = c.born })
	}
}

// sayCopied tells the log, now and then, what a start waits for.
func (c *Cluster) sayCopied() {
	if c.copied.Load() {
		c.copiedSaid.Warn(c.log, "cluster: this node waits, for "+copiedWords, zap.String("dir", c.o.Dir))
	}
}
