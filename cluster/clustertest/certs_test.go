package clustertest_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// record is what a node's state says of a member.
func record(t *testing.T, at *clustertest.Node, node string) *pb.Member {
	var m *pb.Member
	require.NoError(t, at.C().View(func(v spool.View) (err error) {
		m, _, err = v.Member(node)
		return err
	}))
	return m
}

func clusterRecord(t *testing.T, at *clustertest.Node) *pb.Cluster {
	var c *pb.Cluster
	require.NoError(t, at.C().View(func(v spool.View) (err error) {
		c, _, err = v.Cluster()
		return err
	}))
	return c
}

// TestCertificatesAreRenewedUnderLoad: certificates of two seconds; none of the
// nodes loses a session, a message or a link for long.
func TestCertificatesAreRenewedUnderLoad(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.CertLife = 2 * time.Second
	tuning.Lease, tuning.Margin = 10*time.Second, 2*time.Second // that of a busy machine, too, does not lapse
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	l := g.NewLedger()
	seen := map[string]map[string]bool{}
	epochs := map[string]uint64{}
	for _, n := range g.Nodes() {
		seen[n.ID], epochs[n.ID] = map[string]bool{}, n.C().Epoch()
	}
	g.Eventually("not every node had five certificates", func() bool {
		for _, n := range g.Nodes() {
			l.MustSend(n, 1000)
			for _, of := range g.Nodes() {
				seen[of.ID][string(record(t, n, of.ID).GetSerial())] = true
			}
		}
		for _, serials := range seen {
			if len(serials) < 5 {
				return false
			}
		}
		return true
	})
	for _, n := range g.Nodes() {
		require.Equal(t, epochs[n.ID], n.C().Epoch(), "%s lost its session", n.ID)
	}
	// An expired certificate of a member opens links like any other.
	n := g.Followers()[0]
	n.Stop()
	<-time.After(2 * tuning.CertLife)
	n.Start()
	g.WaitReady(n)
	l.Check()
	g.WaitEqual()
}

// step waits until a node sees a rotation at a step.
func step(t *testing.T, g *clustertest.Group, at *clustertest.Node, want uint32) {
	g.Eventually("the rotation is not at its next step", func() bool { return clusterRecord(t, at).CaStep == want })
}

// rotated waits until every running node has done with a rotation, and checks
// that only the new CA is trusted anywhere.
func rotated(t *testing.T, g *clustertest.Group, before []byte) {
	t.Helper()
	for _, n := range g.Up() {
		g.Eventually("the rotation does not end at "+n.ID, func() bool {
			c := clusterRecord(t, n)
			return c.CaStep == spool.CASettled && !bytes.Equal(c.CaCert, before)
		})
		now := clusterRecord(t, n)
		g.Eventually(n.ID+" trusts more than the new CA", func() bool {
			b, err := os.ReadFile(filepath.Join(n.Dir, "identity.json"))
			require.NoError(t, err)
			var id struct {
				CA   string `json:"ca"`
				Next string `json:"ca_next"`
			}
			require.NoError(t, json.Unmarshal(b, &id))
			return id.CA == string(now.CaCert) && id.Next == ""
		})
		require.Equal(t, spool.Fingerprint(now.CaCert), record(t, n, n.ID).Ca)
	}
}

// TestRotationOfTheCA: under load, with a node killed in each step, and with
// tokens of before and after.
func TestRotationOfTheCA(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	l.MustSend(g.Node(0), 1000)
	before := clusterRecord(t, g.Node(0)).CaCert
	old, err := g.Node(0).C().Token(t.Context(), 2, time.Minute, operator)
	require.NoError(t, err)

	// One node is off: the rotation waits for it, and says so.
	off := g.Followers()[0]
	off.Kill()
	leader := g.Leader()
	require.NoError(t, leader.C().RotateCA(t.Context(), nil, operator))
	require.NoError(t, leader.C().RotateCA(t.Context(), nil, operator), "it is under way")
	g.Eventually("the rotation does not wait for the node that is off", func() bool {
		r, err := leader.C().Rotation()
		return err == nil && r.Step == spool.CATrust && len(r.Waits) == 1 && r.Waits[0] == off.ID
	})
	leader.Kill() // any leader goes on
	off.Start()
	leader.Start()
	g.WaitReady(g.Nodes()...)
	l.MustSend(g.Node(1), 1000)

	step(t, g, off, spool.CASign)
	g.Leader().Kill()
	for _, n := range g.Nodes() {
		if n.C() == nil {
			n.Start()
		}
	}
	g.WaitReady(g.Nodes()...)
	rotated(t, g, before)
	g.WaitReady(g.Nodes()...)
	l.MustSend(g.Node(2), 1000)

	young, err := g.Node(1).C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	for token, by := range map[string]*clustertest.Node{old: g.Node(1), young: g.Node(2)} {
		require.NoError(t, join(t, "a", token, by.Addr), "the tokens of before and after are good")
		g.Remove(by, "a")
	}
	l.Check()
	g.WaitEqual()
}

// TestRotationWithoutANode: the node left out is removed, and joins anew.
func TestRotationWithoutANode(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	lost, leader := g.Followers()[0], g.Leader()
	before := clusterRecord(t, leader).CaCert
	lost.Kill()
	g.Eventually("the dead node's session lives", func() bool { return session(t, leader, lost.ID) == nil })
	require.NoError(t, leader.C().RotateCA(t.Context(), nil, operator))
	step(t, g, leader, spool.CATrust)
	require.NoError(t, leader.C().RotateCA(t.Context(), []string{lost.ID}, operator))
	rotated(t, g, before)
	lost.Wipe()
	lost.Rejoin(leader)
	g.WaitVoters(3)
	g.WaitReady(lost)
	g.WaitEqual()
}
