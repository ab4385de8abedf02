package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// onRecord waits until a node's certificate is a young one that is on record. A first try that
// fails is made again within 90 s (retryFirst).
func (c *Cluster) onRecord(t *testing.T) *pb.Member {
	var m *pb.Member
	require.Eventually(t, func() bool {
		m = c.roster.Member(c.id.Node)
		return m.GetIssuedMs() != 0 && pki.IsOf(*c.self.Load(), m.Serial, m.Key)
	}, 2*time.Minute, time.Millisecond)
	return m
}

// TestCertificatesLiveNinetyDays: a cluster of version 2 has no other, and their
// serials grow with the log.
func TestCertificatesLiveNinetyDays(t *testing.T) {
	c := alone(t)
	m := c.onRecord(t)
	self := c.self.Load()
	require.WithinDuration(t, time.Now().Add(90*24*time.Hour), self.NotAfter, time.Minute)
	require.NotZero(t, pki.SerialIndex(m.Serial))
	require.LessOrEqual(t, pki.SerialIndex(m.Serial), c.Applied())
	require.Equal(t, pki.Fingerprint([]byte(c.id.Credential().CA)), m.Ca)
	require.NotEmpty(t, m.OldSerial, "the one that it began with")
	saved, err := datadir.Load(c.o.Dir)
	require.NoError(t, err)
	require.Equal(t, c.id.Credential(), saved.Credential())
}

// TestNoCertificateIsDueBeforeTheMemberIsOnRecord: the request of a node that has only just
// registered would be refused, and made again a minute later.
func TestNoCertificateIsDueBeforeTheMemberIsOnRecord(t *testing.T) {
	c := alone(t)
	record, err := c.record()
	require.NoError(t, err)
	young := &Cluster{t: c.t, id: c.id, now: c.now, roster: pki.NewRoster(c.Now, 0)}
	r := &renewer{c: young}
	late := wire.Peer{NotAfter: c.Now().Add(time.Hour)}
	copy(late.CA[:], pki.Fingerprint(pki.Signing(record).Cert))
	require.False(t, r.due(record, &late), "the member record is not applied yet")
	require.NoError(t, c.View(young.roster.Learn))
	require.True(t, r.due(record, &late))
	fresh := late
	fresh.NotAfter = c.Now().Add(c.t.CertLife)
	require.False(t, r.due(record, &fresh))
}

// TestTheCAsKeyAloneOpensNothing: it is in the store of every replica, so what it
// signs counts only where the state has it.
func TestTheCAsKeyAloneOpensNothing(t *testing.T) {
	c := alone(t)
	m := c.onRecord(t)
	record, err := c.record()
	require.NoError(t, err)
	ca, err := pki.OpenAuthority(record.CaCert, record.CaKey)
	require.NoError(t, err)
	dial := func(me wire.Identity, proto string, patience time.Duration) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		p := wire.New(wire.Options{Listener: l, Identity: me, Log: zap.NewNop()})
		p.Start()
		defer p.Close()
		conn, err := p.Dial(t.Context(), proto, "n1", c.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return nil // it was let in, and nobody says anything
		}
		return err
	}
	me, err := c.id.Wire()
	require.NoError(t, err)
	require.NoError(t, dial(me, wire.Raft, 300*time.Millisecond), "the node itself")
	for name, index := range map[string]uint64{
		"newer": c.Applied() + 1, "much newer": pki.MaxSerial - 1, "of the same index": pki.SerialIndex(m.Serial), "older": 0,
	} {
		key, der, err := pki.NewRequest("n1")
		require.NoError(t, err)
		csr, err := pki.ParseRequest(der)
		require.NoError(t, err)
		cert, err := ca.Sign(csr, pki.Subject{Cluster: c.id.Cluster, Node: "n1", Now: time.Now(), Life: time.Hour,
			Index: index})
		require.NoError(t, err)
		forged, err := pki.Credential{CA: string(record.CaCert), Cert: string(cert), Key: string(key)}.Wire(c.id.Cluster,
			"n1")
		require.NoError(t, err)
		for _, proto := range []string{wire.Raft, wire.RPC, wire.Bulk} {
			require.Error(t, dial(forged, proto, time.Minute), "%s, %s", name, proto)
		}
	}
}

// TestRegisterIsMarkedByTheConnection: a node's word on its certificate is not
// believed.
func TestRegisterIsMarkedByTheConnection(t *testing.T) {
	c := alone(t)
	shown := &wire.Peer{Node: "n1", Serial: bytes.Repeat([]byte{7}, pki.SerialSize), Key: [32]byte{1}, CA: [32]byte{2}}
	said := &pb.Member{Id: "n1", Serial: []byte("mine"), Key: []byte("too")}
	f, err := spool.Encode(spool.KindRegister, &pb.Register{Nonce: "x", Member: said})
	require.NoError(t, err)
	cmd, err := spool.Decode(c.withCertificate(f, shown))
	require.NoError(t, err)
	m := cmd.Header.(*pb.Register).Member
	require.Equal(t, [][]byte{shown.Serial, shown.Key[:], shown.CA[:]}, [][]byte{m.Serial, m.Key, m.Ca})
	renew, err := spool.Encode(spool.KindRenew, &pb.Renew{Node: "n1"})
	require.NoError(t, err)
	require.Equal(t, renew, c.withCertificate(renew, shown))
}

// TestDoorRenewsTheCertificateBefore: a node that did not get its new certificate
// before it went off shows the one before at the join server, for 400 days; any other
// is refused.
func TestDoorRenewsTheCertificateBefore(t *testing.T) {
	c := alone(t)
	m := c.onRecord(t)
	before := wire.Peer{Node: "n1", Serial: m.OldSerial}
	copy(before.Key[:], m.OldKey)
	now := time.Now()
	c.roster.Now = func() time.Time { return now.Add(2 * pki.OldGrace) }
	require.Error(t, c.judge(before), "it opens no link any more")
	_, csr, err := pki.NewRequest("n1")
	require.NoError(t, err)
	reply := c.certifyOutdated(t.Context(), before, csr)
	require.Empty(t, reply.Refused)
	leaf, err := pki.ParseCert([]byte(reply.Cert))
	require.NoError(t, err)
	require.Equal(t, leaf.SerialNumber.FillBytes(make([]byte, pki.SerialSize)), c.roster.Member("n1").Serial)
	require.Equal(t, m.OldSerial, c.roster.Member("n1").OldSerial, "this answer can be lost, too")
	for name, p := range map[string]wire.Peer{
		"another key":    {Node: "n1", Serial: m.OldSerial},
		"another serial": {Node: "n1", Serial: bytes.Repeat([]byte{1}, pki.SerialSize), Key: before.Key},
		"another node":   {Node: "n2", Serial: m.OldSerial, Key: before.Key},
	} {
		require.NotEmpty(t, c.certifyOutdated(t.Context(), p, csr).Refused, name)
	}
}

// TestCertificateBeforeFindsItsWay: the identity file of before a renewal comes
// back; the node gets a certificate at its own join server, as it would at another's.
func TestCertificateBeforeFindsItsWay(t *testing.T) {
	c := alone(t)
	m := c.onRecord(t)
	var lost *datadir.Identity
	b, err := os.ReadFile(filepath.Join(c.o.Dir, "identity.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &lost))
	ca, err := pki.ParseCert([]byte(lost.CA))
	require.NoError(t, err)
	sum := sha256.Sum256(ca.Raw)
	require.Equal(t, kindKnown, c.askJoinServer(t.Context(), c.Addr().String(), sum))

	require.NoError(t, c.renewCertificate(t.Context()))
	require.NoError(t, c.renewCertificate(t.Context())) // lost's one is two before now
	require.NotEqual(t, m.Serial, c.roster.Member("n1").OldSerial)
	now := c.self.Load()
	c.id.Change(lost.Credential())
	require.Equal(t, kindRenew, c.askJoinServer(t.Context(), c.Addr().String(), sum))
	require.Equal(t, now, c.self.Load(), "what is not on record at all is not renewed")
}

// TestLateCertificateIsNamed: with less than a sixth of its life, 15 days, left.
func TestLateCertificateIsNamed(t *testing.T) {
	c := alone(t)
	c.onRecord(t)
	require.Empty(t, c.CertificateTrouble())
	late := *c.self.Load()
	late.NotAfter = time.Now().Add(14 * 24 * time.Hour)
	c.self.Store(&late)
	require.Contains(t, c.CertificateTrouble(), "certificate of node n1")
	require.Equal(t, late.NotAfter, c.CertificateEnds())
}
