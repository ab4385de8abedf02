package pki

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/internal/wire"
	pb "relay/cluster/spool/spoolpb"
)

// serialAt makes a serial as a signer at an applied index would.
func serialAt(index uint64, rest byte) []byte {
	s := binary.BigEndian.AppendUint64(nil, index)
	return append(s, 0, 0, 0, 0, 0, 0, 0, rest)
}

// TestWhichCertificatesCount is the table of dates, serials and keys: a clock
// that is days off changes nothing for what is on record.
func TestWhichCertificatesCount(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	life, day := 90*24*time.Hour, 24*time.Hour
	present, former := serialAt(500, 1), serialAt(100, 2)
	record := &pb.Member{
		Id: "n1", Serial: present, Key: make([]byte, 32), OldSerial: former, OldKey: make([]byte, 32),
		IssuedMs: now.UnixMilli(),
	}
	random := make([]byte, SerialSize)
	random[0] = 0x71
	for _, c := range []struct {
		name   string
		clock  time.Duration // of the judging node, from now
		peer   wire.Peer
		node   string
		newer  bool
		refuse bool
	}{
		{name: "on record", peer: wire.Peer{Serial: present}},
		{name: "on record, the clock 10 days behind", clock: -10 * day, peer: wire.Peer{Serial: present}},
		{name: "on record, the clock 10 days ahead", clock: 10 * day, peer: wire.Peer{Serial: present}},
		{name: "on record, expired for a year", clock: life + 365*day, peer: wire.Peer{Serial: present}},
		{name: "on record, another key", peer: wire.Peer{Serial: present, Key: [32]byte{1}}, refuse: true},
		{name: "former, just replaced", clock: time.Minute, peer: wire.Peer{Serial: former}},
		{name: "former, another key", clock: time.Minute, peer: wire.Peer{Serial: former, Key: [32]byte{1}}, refuse: true},
		{name: "former, after an hour", clock: time.Hour + time.Minute, peer: wire.Peer{Serial: former}, refuse: true},
		{name: "newer", peer: wire.Peer{Serial: serialAt(501, 3)}, newer: true},
		{name: "newer, the clock 10 days behind", clock: -10 * day, peer: wire.Peer{Serial: serialAt(501, 3)}, newer: true},
		{name: "older than both", peer: wire.Peer{Serial: serialAt(99, 3)}, refuse: true},
		{name: "of the same index", peer: wire.Peer{Serial: serialAt(500, 9)}, refuse: true},
		{name: "of before version 2, not on record", peer: wire.Peer{Serial: random}, refuse: true},
		{name: "no record", node: "n2", peer: wire.Peer{Serial: random}},
		{name: "no record, the clock 10 days behind", node: "n2", clock: -10 * day, peer: wire.Peer{Serial: random}},
		{name: "no record, the clock 10 days ahead", node: "n2", clock: 10 * day, peer: wire.Peer{Serial: random}},
		{name: "no record, expired", node: "n2", clock: life + day, peer: wire.Peer{Serial: random}, refuse: true},
		{name: "a name that is to be dialled", clock: life + day},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRoster(func() time.Time { return now.Add(c.clock) }, 0)
			r.members = map[string]*pb.Member{"n1": record}
			c.peer.Node, c.peer.NotBefore, c.peer.NotAfter = "n1", now.Add(-day), now.Add(life)
			if c.node != "" {
				c.peer.Node = c.node
			}
			switch err := r.Judge(c.peer); {
			case c.newer:
				require.ErrorIs(t, err, ErrNewer)
			case c.refuse:
				require.Error(t, err)
				require.NotErrorIs(t, err, ErrNewer)
			default:
				require.NoError(t, err)
			}
		})
	}
}
