package inbound

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
)

func keyOf(n int) (k [16]byte) {
	binary.BigEndian.PutUint64(k[:], uint64(n))
	return k
}

func TestReceiptsAreBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceipts(nil, "n1", nil, zap.NewNop())
		r.most = 100
		a := keyOf(1 << 40)
		r.note(receipt{a, 0})
		require.EqualValues(t, 1, r.read(a[:]))
		r.note(receipt{a, 1})
		r.note(receipt{a, 0}) // late
		require.EqualValues(t, 2, r.read(a[:]))
		for i := range 1000 {
			r.note(receipt{keyOf(i + 1), 0})
		}
		require.Zero(t, r.read(a[:]))
		require.LessOrEqual(t, len(r.halfs[0])+len(r.halfs[1]), 200)
		last := keyOf(1000)
		time.Sleep(receiptsFor - time.Minute)
		require.EqualValues(t, 1, r.read(last[:]), "and it is used, which renews it")
		time.Sleep(receiptsFor)
		r.note(receipt{a, 0})
		require.EqualValues(t, 1, r.read(last[:]))
		time.Sleep(3 * receiptsFor)
		r.note(receipt{a, 0})
		require.Zero(t, r.read(last[:]))
		var none *receipts
		none.note(receipt{a, 0})
		require.Zero(t, none.read(a[:]))
	})
}

func TestReceiptsAskAllThatLive(t *testing.T) {
	rep := threeNodes(t)
	a := keyOf(7)
	r := newReceipts(rep, "n1", func(_ context.Context, node, method string, req []byte) ([]byte, error) {
		require.Equal(t, MethodReceipt, method)
		other := newReceipts(rep, node, nil, zap.NewNop())
		switch node {
		case "n2":
			other.note(receipt{a, 4})
			return other.answer(req), nil
		case "n3":
			return nil, errors.New("gone")
		}
		return nil, fmt.Errorf("%s was asked", node)
	}, zap.NewNop())
	require.EqualValues(t, 5, r.ask(t.Context(), a[:]))
	r.note(receipt{a, 6})
	require.EqualValues(t, 7, r.ask(t.Context(), a[:]))
	b := keyOf(8)
	require.Zero(t, r.ask(t.Context(), b[:]))
	require.Equal(t, []byte{0, 0, 0, 0}, r.answer([]byte("short")))
}

func TestNumberedKeysDiffer(t *testing.T) {
	key := []byte("0123456789abcdef")
	require.Equal(t, key, numbered(key, 0), "as version 1 has it")
	require.Len(t, numbered(key, 1), 16)
	require.NotEqual(t, numbered(key, 1), numbered(key, 2))
	require.Nil(t, numbered(nil, 3))
}

// threeNodes is a replica with sessions of n1, n2 and n3.
func threeNodes(t testing.TB) *replicatest.Fake {
	r := replicatest.New(t)
	for _, id := range []string{"n1", "n2", "n3"} {
		res, err := replica.Propose(context.Background(), r, spool.KindRegister,
			&pb.Register{Nonce: id, Member: &pb.Member{Id: id, MaxCommand: spool.MaxVersion}})
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
		if id == "n1" {
			r.Session = res.Epoch
		}
	}
	return r
}
