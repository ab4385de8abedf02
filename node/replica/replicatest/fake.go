// Package replicatest gives the shared fake replica to tests.
package replicatest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
)

// Start is when a fake's clock begins.
var Start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// Fake is a replica.Fenced that applies each proposal at once, to a map. Its
// methods may be called concurrently; its fields are set and read between calls.
type Fake struct {
	Mu      sync.Mutex
	Store   *memory.Store
	Machine *spool.Machine
	Index   uint64
	Clock   time.Time
	Session uint64
	Fail    error  // of the next proposals
	Arrive  func() // what comes with a Consistent
	Frames  []spool.Frame
	Applied func() // follows each proposal, the failing ones too; nil: nothing does

	t     testing.TB
	seals int
}

// New makes an empty fake; errors end the test.
func New(t testing.TB) *Fake {
	r := &Fake{Store: memory.New(), Clock: Start, t: t}
	var err error
	r.Machine, err = spool.Load(r.Store)
	require.NoError(t, err)
	return r
}

// Propose implements replica.Replica; it fails as told.
func (r *Fake) Propose(_ context.Context, f spool.Frame) (*pb.Result, error) {
	res, err := r.apply(f)
	if r.Applied != nil {
		r.Applied()
	}
	return res, err
}

func (r *Fake) apply(f spool.Frame) (res *pb.Result, err error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if r.Fail != nil {
		return nil, r.Fail
	}
	f.Stamp(r.Clock)
	r.Frames = append(r.Frames, f)
	r.Index++
	err = r.Store.Update(func(b spool.Batch) error {
		if res, err = r.Machine.Apply(b, r.Index, f); err == nil {
			err = r.Machine.Flush(b)
		}
		return err
	})
	return res, err
}

// View implements replica.Replica.
func (r *Fake) View(fn func(spool.View) error) error { return fn(spool.View{R: r.Store}) }

// Frozen implements replica.Replica.
func (r *Fake) Frozen(fn func(spool.View, uint64) error) error {
	r.Mu.Lock()
	frozen, index := r.Store.Clone(), r.Index
	r.Mu.Unlock()
	return fn(spool.View{R: frozen}, index)
}

// BodyKey is where the store keeps a chunk of a body.
func BodyKey(id spool.ID, seq uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{'b'}, id[:]...), seq)
}

// OpenBody implements replica.Replica.
func (r *Fake) OpenBody(id spool.ID, chunks uint32, prefix []byte) (io.ReadCloser, error) {
	parts := [][]byte{prefix}
	for seq := range chunks {
		part, err := r.Store.Get(BodyKey(id, seq))
		if err != nil || part == nil {
			return nil, fmt.Errorf("no part %d of %s", seq, id)
		}
		parts = append(parts, part)
	}
	return io.NopCloser(bytes.NewReader(bytes.Join(parts, nil))), nil
}

// WaitApplied implements replica.Replica: all is applied.
func (r *Fake) WaitApplied(context.Context, uint64) error { return nil }

// Consistent implements replica.Replica.
func (r *Fake) Consistent(context.Context) error {
	if r.Arrive != nil {
		r.Arrive()
	}
	return r.Fail
}

// Epoch implements replica.Replica.
func (r *Fake) Epoch() uint64 { return r.Session }

// Now implements replica.Replica: the time of the process, not that of the clock
// which stamps the commands.
func (r *Fake) Now() time.Time { return time.Now() }

// Seal implements replica.Sealer in a way that tests can look through.
func (r *Fake) Seal(_ context.Context, secret []byte, about string) ([]byte, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.seals++
	return fmt.Appendf(nil, "sealed %d for %q %x", r.seals, about, secret), r.Fail
}

// Unseal implements replica.Sealer.
func (r *Fake) Unseal(_ context.Context, sealed []byte, about string) ([]byte, error) {
	_, text, ok := strings.Cut(string(sealed), fmt.Sprintf(" for %q ", about))
	if !ok {
		return nil, fmt.Errorf("sealed for something else than %q", about)
	}
	return hex.DecodeString(text)
}

// Until implements replica.Fenced: the session lasts.
func (r *Fake) Until() time.Time { return time.Now().Add(time.Hour) }
