package clustertest

import (
	"fmt"

	"github.com/stretchr/testify/require"
)

// Image copies the directory of a node that is down.
func (n *Node) Image() string {
	n.g.t.Helper()
	require.Nil(n.g.t, n.C(), "%s runs", n.ID)
	dir := n.g.dir()
	require.NoError(n.g.t, copyTree(n.Dir, dir))
	return dir
}

// Restore gives a node that is down the contents of an image.
func (n *Node) Restore(image string) {
	n.g.t.Helper()
	require.Nil(n.g.t, n.C(), "%s runs", n.ID)
	n.Dir, n.Moved = n.g.dir(), false
	require.NoError(n.g.t, copyTree(image, n.Dir))
}

// Clone makes another node of an image of this one: the same id, at an address
// of its own. It is down, and no member of the Group.
func (n *Node) Clone(image string) *Node {
	n.g.t.Helper()
	c := n.g.node(n.ID)
	c.wire = fmt.Sprintf("%s-copy%d", n.ID, len(n.g.copies)+1)
	c.Restore(image)
	n.g.copies = append(n.g.copies, c)
	return c
}
