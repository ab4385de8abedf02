package spool_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func encode(t require.TestingT, kind spool.Kind, h proto.Message, body ...[]byte) spool.Frame {
	f, err := spool.Encode(kind, h, body...)
	require.NoError(t, err)
	return f
}

func TestAFrameSaysTheVersionItNeeds(t *testing.T) {
	for _, c := range []struct {
		kind spool.Kind
		h    proto.Message
		want uint32
	}{
		{spool.KindRenew, &pb.Renew{Node: "n1", Epoch: 7}, 1},
		{spool.KindRenew, &pb.Renew{Node: "n1", Epoch: 7, WallMs: 1}, 2},
		{spool.KindRegister, &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: 2}}, 1},
		{spool.KindRegister, &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", Log: "x"}}, 2},
		{spool.KindPutToken, &pb.PutToken{Token: &pb.JoinToken{Uses: 1, MadeMs: 1}}, 2},
		{spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}}, 1},
		{spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", CaStep: 1}}, 2},
		{spool.KindAccept, &pb.Accept{Recipients: []*pb.Recipient{{Address: "a@b.example"}, {Changed: 1}}}, 2},
		{spool.KindAccept, &pb.Accept{Copies: []*pb.Accept{{Recipients: []*pb.Recipient{{Changed: 1}}}}}, 2},
		{spool.KindRaise, &pb.Raise{From: 1, To: 2}, 1}, // it leads to version 2
	} {
		require.Equal(t, c.want, encode(t, c.kind, c.h).Version(), "%s %v", c.kind, c.h)
	}
	newer := encode(t, spool.KindRenew, &pb.Renew{Node: "n1"})
	newer[0] = spool.MaxVersion + 1
	_, err := spool.Decode(newer)
	require.ErrorIs(t, err, spool.ErrFrame)
	older := encode(t, spool.KindRenew, &pb.Renew{Node: "n1", Seq: 1})
	older[0] = 1
	_, err = spool.Decode(older)
	require.ErrorContains(t, err, "fields of version 2 in a frame of version 1")
}

// withHeader makes a frame around an encoded header.
func withHeader(kind spool.Kind, header []byte) spool.Frame {
	f := make(spool.Frame, 14, 14+len(header))
	f[0], f[1] = spool.MaxVersion, byte(kind)
	binary.BigEndian.PutUint32(f[10:], uint32(len(header)))
	return append(f, header...)
}

func TestUnknownFieldsStopANode(t *testing.T) {
	strange := protowire.AppendVarint(protowire.AppendTag(nil, 5000, protowire.VarintType), 7)
	inside := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	for name, f := range map[string]spool.Frame{
		"at the top":            withHeader(spool.KindAccept, strange),
		"in a recipient":        withHeader(spool.KindAccept, inside(2, strange)),
		"in a copy's recipient": withHeader(spool.KindAccept, inside(40, inside(2, strange))),
		"of another kind":       withHeader(spool.KindAccept, inside(4, []byte("x"))),
		"no text":               withHeader(spool.KindRenew, inside(1, []byte("\xff"))),
	} {
		_, err := spool.Decode(f)
		require.ErrorIs(t, err, spool.ErrFrame, name)
		r := newReplica(t)
		_, err = r.m.Apply(r.store.Batch(), 1, f)
		require.ErrorIs(t, err, spool.ErrFrame, "%s: Apply", name)
	}
	deep := []byte{}
	for range 70 {
		deep = inside(40, deep)
	}
	require.Error(t, withHeader(spool.KindAccept, deep).Check())
}

// TestCheckAgreesWithUnmarshal: what Check takes can be decoded and has no
// unknown field, and the other way round.
func TestCheckAgreesWithUnmarshal(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := randomLog(r)
		f := append(spool.Frame(nil), log[rapid.IntRange(0, len(log)-1).Draw(r, "entry")].frame...)
		size := int(binary.BigEndian.Uint32(f[10:]))
		header := f[14 : 14+size]
		for range rapid.IntRange(0, 3).Draw(r, "changes") {
			if size > 0 {
				header[rapid.IntRange(0, size-1).Draw(r, "at")] = rapid.Byte().Draw(r, "octet")
			}
		}
		f[0] = spool.MaxVersion
		h := spool.Blank(f.Kind())
		err := proto.Unmarshal(header, h)
		whole := err == nil && !hasUnknown(h.ProtoReflect())
		require.Equal(r, whole, f.Check() == nil, "%v %v %x", err, f.Check(), header)
	})
}

func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = found || hasUnknown(v.Message())
		}
		return true
	})
	return found
}

// TestEveryFieldHasAVersion: each field of version 1 is there as it was, and every
// field that came later says since when. testdata/v1/fields.txt was written from the
// last build of version 1 and never changes.
func TestEveryFieldHasAVersion(t *testing.T) {
	golden, err := os.ReadFile("testdata/v1/fields.txt")
	require.NoError(t, err)
	first := map[string]bool{}
	for line := range strings.Lines(string(golden)) {
		first[strings.TrimSpace(line)] = true
	}
	eachField(pb.File_spool_proto.Messages(), func(name string, fd protoreflect.FieldDescriptor) {
		line := fmt.Sprintf("%s.%s %d %s %s", name, fd.Name(), fd.Number(), fd.Cardinality(), fd.Kind())
		since := spool.SinceField(fd)
		switch {
		case first[line]:
			require.EqualValues(t, 1, since, "%s is of version 1", line)
			delete(first, line)
		case name != "Raise":
			require.Greater(t, since, uint32(1),
				"%s is no field of version 1: enter it in sinceField or sinceMessage of version.go", line)
			require.LessOrEqual(t, since, uint32(spool.MaxVersion), line)
		}
	})
	require.Empty(t, first, "fields of version 1 are for ever")
}

func eachField(all protoreflect.MessageDescriptors, fn func(string, protoreflect.FieldDescriptor)) {
	for i := range all.Len() {
		m := all.Get(i)
		name := strings.TrimPrefix(string(m.FullName()), string(pb.File_spool_proto.Package())+".")
		for j := range m.Fields().Len() {
			fn(name, m.Fields().Get(j))
		}
		eachField(m.Messages(), fn)
	}
}

// TestEveryVersionedNameExists: the tables of version.go name what there is.
func TestEveryVersionedNameExists(t *testing.T) {
	there := map[string]bool{}
	eachField(pb.File_spool_proto.Messages(), func(name string, fd protoreflect.FieldDescriptor) {
		there[name], there[name+"."+string(fd.Name())] = true, true
	})
	for _, name := range spool.VersionedNames() {
		require.True(t, there[name], "version.go names %s, and there is no such message or field", name)
	}
}

// raised makes a cluster and raises it.
func (r *replica) raised(to uint32) *pb.Result {
	r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	return r.do(spool.KindRaise, &pb.Raise{From: 1, To: to})
}

func (r *replica) version() uint32 {
	c, _, err := r.view().Cluster()
	require.NoError(r.t, err)
	return spool.VersionOf(c)
}

func TestRaise(t *testing.T) {
	r := newReplica(t)
	require.Equal(t, pb.Code_MISSING, r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2}).Code, "no cluster yet")
	require.Equal(t, pb.Code_OK, r.raised(2).Code)
	require.EqualValues(t, 2, r.version())
	require.Equal(t, pb.Code_STALE, r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2}).Code)
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindRaise, &pb.Raise{From: 2, To: 1}).Code)

	sum := r.store.Sum()
	f := encode(t, spool.KindRaise, &pb.Raise{From: 2, To: spool.MaxVersion + 1})
	_, err := r.m.Apply(r.store.Batch(), r.index+1, f)
	require.ErrorIs(t, err, spool.ErrVersion)
	require.ErrorContains(t, err, "it goes on with version 3, this relayd knows 1 to 2: install the newer one")
	require.Equal(t, sum, r.store.Sum(), "a node ends before it applies what it does not know")
}

// TestAnOldBuildDoesNotRaise: a build of version 1 that was rolled back finds its
// own record of the newer build, and raises in its own way.
func TestAnOldBuildDoesNotRaise(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	require.Equal(t, pb.Code_OK,
		r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 2}}).Code)
	require.EqualValues(t, 1, r.version())
	require.Equal(t, pb.Code_OK, r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2}).Code)
	require.EqualValues(t, 2, r.version())
}

func TestANewerStateIsNotLoaded(t *testing.T) {
	r := newReplica(t)
	r.raised(2)
	c, _, err := r.view().Cluster()
	require.NoError(t, err)
	c.Raised = spool.MaxVersion + 1
	b := r.store.Batch()
	v, err := proto.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, b.Set([]byte("zcluster"), v))
	b.Commit()
	_, err = spool.Load(r.store)
	require.ErrorIs(t, err, spool.ErrVersion)
	require.ErrorContains(t, err, "the data is of cluster version 3, this relayd knows 1 to 2")
}

func TestAnOldBuildGetsNoSessionAfterTheRaise(t *testing.T) {
	r := newReplica(t)
	register := func(max uint32) *pb.Result {
		return r.do(spool.KindRegister, &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: max}})
	}
	r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	require.Equal(t, pb.Code_OK, register(1).Code)
	r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	res := register(1)
	require.Equal(t, pb.Code_INVALID, res.Code)
	require.Contains(t, res.Text, "the cluster version is 2, and this relayd knows only 1")
	require.Equal(t, pb.Code_INVALID, register(0).Code, "a build that does not say what it knows")
	require.NotZero(t, register(2).Epoch)
}

func BenchmarkCheck(b *testing.B) {
	id := newID(1)
	h := acceptOf(id, 7, []string{"x@far.example"}, "alice@here.example")
	h.Message.Client = &pb.Client{Node: "n1", Address: "192.0.2.1:40000", Helo: "host.example", Protocol: "ESMTP"}
	f := encode(b, spool.KindAccept, h, make([]byte, 4096))
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if f.Check() != nil {
				b.Fatal("refused")
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := spool.Decode(f); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestARouteNeedsVersion2ForMoreThanATarget(t *testing.T) {
	for _, c := range []struct {
		version uint32
		route   *pb.Route
	}{
		{1, &pb.Route{}}, {2, &pb.Route{NoEhlo: []string{"PIPELINING"}}}, {2, &pb.Route{Tls: "verify"}},
		{2, &pb.Route{ImplicitTls: true}}, {2, &pb.Route{Fingerprints: [][]byte{{1}}}}, {2, &pb.Route{TlsCa: "ca"}},
		{2, &pb.Route{User: "u"}}, {2, &pb.Route{Password: []byte{1}}},
	} {
		c.route.Domain, c.route.Target = "*", "mx"
		f, err := spool.Encode(spool.KindPutRoute, &pb.PutRoute{Route: c.route})
		require.NoError(t, err)
		require.Equal(t, c.version, f.Version())
	}
}

// TestSumsDependOnCommandsAlone: not on batches, nor on restarts, as the store
// hands the chain on.
func TestSumsDependOnCommandsAlone(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		log := randomLog(r)
		cuts := rapid.SliceOfN(rapid.Bool(), len(log), len(log)).Draw(r, "cuts")
		whole := summed(r, log, func(int) bool { return true }, false)
		require.Equal(r, whole, summed(r, log, func(i int) bool { return cuts[i] }, false), "other batches")
		require.Equal(r, whole, summed(r, log, func(i int) bool { return cuts[i] }, true), "restarts")
		at := rapid.IntRange(0, len(log)-1).Draw(r, "changed")
		log[at].frame = append(spool.Frame(nil), log[at].frame...)
		binary.BigEndian.PutUint64(log[at].frame[2:], binary.BigEndian.Uint64(log[at].frame[2:])^1)
		require.NotEqual(r, whole, summed(r, log, func(int) bool { return true }, false), "a command differs")
	})
}

func summed(t require.TestingT, log []entry, ends func(int) bool, restart bool) uint64 {
	r := newReplica(t)
	r.raised(2)
	b := r.store.Batch()
	for i, e := range log {
		_, err := r.m.Apply(b, r.index+e.index, append(spool.Frame(nil), e.frame...))
		require.NoError(t, err)
		if !ends(i) && i < len(log)-1 {
			continue
		}
		require.NoError(t, r.m.Flush(b))
		b.Commit()
		b = r.store.Batch()
		if sum, on := r.m.Sum(); restart && on {
			r.m, err = spool.Load(r.store)
			require.NoError(t, err)
			r.m.Resume(sum)
		}
	}
	sum, on := r.m.Sum()
	require.True(t, on)
	return sum
}

// TestAVoidChainBeginsAnew: a replica that lost its chain has none after a restart, does
// not get one by a Mark alone, and has that of the others from the next Raise on, also
// from a version to itself.
func TestAVoidChainBeginsAnew(t *testing.T) {
	kept, void := newReplica(t), newReplica(t)
	both := func(kind spool.Kind, h proto.Message) {
		for _, r := range []*replica{kept, void} {
			require.Equal(t, pb.Code_OK, r.do(kind, h).Code, "%s", kind)
		}
	}
	for _, r := range []*replica{kept, void} {
		require.Equal(t, pb.Code_OK, r.raised(2).Code)
	}
	both(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "a.example"}})
	require.Equal(t, chain(t, kept), chain(t, void))
	m, err := spool.Load(void.store)
	require.NoError(t, err)
	void.m = m // and no Resume
	_, on := void.m.Sum()
	require.False(t, on)
	both(spool.KindMark, &pb.Mark{Id: "m"})
	_, on = void.m.Sum()
	require.False(t, on, "a Mark compares, and begins nothing")
	require.Equal(t, kept.store.Sum(), void.store.Sum(), "the states are equal")

	both(spool.KindRaise, &pb.Raise{From: 2, To: 2})
	require.Equal(t, chain(t, kept), chain(t, void))
	both(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "b.example"}})
	require.Equal(t, chain(t, kept), chain(t, void))
	kept.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "c.example"}})
	void.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "d.example"}})
	both(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "e.example"}})
	require.NotEqual(t, chain(t, kept), chain(t, void), "once different, always different")
}

func chain(t *testing.T, r *replica) uint64 {
	sum, on := r.m.Sum()
	require.True(t, on)
	return sum
}
