package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
)

// TestRecoverSaysWhichSurvivor: after a contradiction the side with the higher term is
// the one that has lost mail, and a state that has diverged is never the right one.
func TestRecoverSaysWhichSurvivor(t *testing.T) {
	code, help, _ := relayd(t, "recover", "--help")
	require.Equal(t, exitOK, code)
	for _, text := range []string{help, choice} {
		require.Contains(t, text, cluster.ErrContradiction.Error()[len("cluster: "):])
		require.Regexp(t, `whatever\s+its\s+term`, text)
		require.Regexp(t, `(?s)ended with "what is.*the highest term, and\s+of\s+those\s+the\s+highest\s+index`, text, "in this order")
	}
	require.Contains(t, help, "Never one whose state differs from the others'")

	peers := []cluster.Peer{{ID: "n1", Address: "192.0.2.1:7170"}}
	found := cluster.Recovered{Node: "n1", Before: peers, Applied: 7, Term: 2}
	require.Equal(t, "This is node n1; its log goes to index 7, in term 2.\n"+
		"Members now:   n1=192.0.2.1:7170\nMembers then:  n1=192.0.2.1:7170\n", survey(found, peers))
	found.Diverged = "differs from n2, n3 at 64"
	require.Contains(t, survey(found, peers),
		"This node's state differs from n2, n3 at 64, so it is the\nwrong one to go on from")
}
