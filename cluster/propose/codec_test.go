package propose

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"

	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// pieces cuts bytes as a network would.
func pieces(b []byte, at ...int) (s mem.BufferSlice) {
	for _, n := range at {
		n = min(max(n, 0), len(b))
		s = append(s, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return append(s, mem.SliceBuffer(b))
}

func TestBatchesArriveAsTheyLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var out batch
		var want []spool.Frame
		for i := range rapid.IntRange(0, 10).Draw(t, "frames") {
			f, err := spool.Encode(spool.KindChunk, &pb.Chunk{Seq: uint32(i)},
				bytes.Repeat([]byte{byte(i)}, rapid.IntRange(0, 3000).Draw(t, "body")))
			require.NoError(t, err)
			want = append(want, bytes.Clone(f))
			out.add(uint64(i), f)
			f.Stamp(time.Now()) // by a batcher of this node, while the batch is on its way
		}
		s, err := out.marshal()
		require.NoError(t, err)
		raw := s.Materialize()
		var in batch
		require.NoError(t,
			in.unmarshal(pieces(raw, rapid.IntRange(0, 5000).Draw(t, "cut"), rapid.IntRange(0, 5000).Draw(t, "cut"))))
		require.Len(t, in.in, len(want))
		for i, p := range in.in {
			require.Equal(t, uint64(i), p.num)
			require.Equal(t, want[i], p.frame)
		}
	})
}

func TestAnswersKeepTheirKind(t *testing.T) {
	var out answers
	out.add(1, &pb.Result{Index: 7, Token: 9, Text: "x"}, nil)
	out.add(2, nil, fault.ErrNotLeader)
	out.add(3, nil, fault.ErrInvalid)
	out.add(4, nil, fault.ErrDeposed)
	out.add(5, nil, errors.New("something else"))
	s, err := out.marshal()
	require.NoError(t, err)
	var in answers
	require.NoError(t, in.unmarshal(s))
	require.Len(t, in.in, 5)
	require.Equal(t, uint64(9), in.in[0].res.Token)
	require.False(t, fault.MayBeApplied(in.in[1].err))
	require.ErrorIs(t, in.in[2].err, fault.ErrInvalid)
	require.True(t, fault.MayBeApplied(in.in[3].err))
	require.True(t, fault.MayBeApplied(in.in[4].err))
}

func FuzzBatch(f *testing.F) {
	var b batch
	b.add(1, small(f))
	b.add(300, large(f))
	s, _ := b.marshal()
	f.Add(s.Materialize())
	f.Add([]byte{1, 14})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in batch
		if in.unmarshal(pieces(raw, len(raw)/2)) != nil {
			return
		}
		for _, p := range in.in {
			require.GreaterOrEqual(t, len(p.frame), preamble)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	var a answers
	a.add(1, &pb.Result{Index: 3}, nil)
	a.add(2, nil, fault.ErrNotLeader)
	f.Add(a.raw)
	f.Add([]byte{1, 0, 200, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in answers
		_ = in.unmarshal(pieces(raw, len(raw)/3))
		for _, one := range in.in {
			require.True(t, (one.res == nil) != (one.err == nil))
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte("\x03abcdef"))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var q question
		_ = q.unmarshal(pieces(raw, 1))
	})
}
