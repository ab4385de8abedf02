package inbound

import (
	"cmp"
	"context"
	"io"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
)

// chunksInFlight is how many parts of one large body travel through the log
// at a time; with spool.MaxInline it bounds what a large message costs.
const chunksInFlight = 4

// convoy is the chunks of one body that are on their way. The first error ends all.
type convoy struct {
	*errgroup.Group
	ctx   context.Context
	turns *semaphore.Weighted // chunksInFlight of them
}

func newConvoy(ctx context.Context) *convoy {
	g, ctx := errgroup.WithContext(ctx)
	return &convoy{g, ctx, semaphore.NewWeighted(chunksInFlight)}
}

// ended waits for the chunks that are on their way, and says why it all ended: an error of
// theirs has ended what met err.
func (g *convoy) ended(err error) error { return cmp.Or(g.Wait(), err) }

// sendAhead puts a large body into the log in chunks, a few in flight, before
// the Accept that claims them.
func (in *intake) sendAhead(ctx context.Context, r io.Reader) error {
	g := newConvoy(ctx)
	for {
		if err := in.sendChunk(g); err != nil {
			return g.ended(err)
		}
		if in.ended {
			return g.Wait()
		}
		if err := in.fill(r); err != nil {
			return g.ended(err)
		}
		for _, s := range stages() {
			if s.pass != nil {
				s.pass(in, ctx, in.buf)
			}
		}
		if in.ended && len(in.buf) == 0 {
			return g.Wait()
		}
	}
}

// sendChunk sends the buffer as the next chunk; the frame has its own copy. A
// buffer to which fields were added may be larger than a chunk, and goes in two.
func (in *intake) sendChunk(g *convoy) error {
	in.share()
	for len(in.buf) > 0 {
		part := in.buf[:min(len(in.buf), spool.MaxInline)]
		if err := in.proposeChunk(g, in.chunks, part); err != nil {
			return err
		}
		in.chunks++
		if in.state == bodyInline {
			in.state = bodyChunked
		}
		in.tail = lastTwo(in.tail, part)
		in.buf = append(in.buf[:0], in.buf[len(part):]...)
	}
	return g.ctx.Err()
}

// proposeChunk sends a chunk, and waits for its turn before: where the memory of messages is
// short, until none of this message is on its way any more.
func (in *intake) proposeChunk(g *convoy, seq uint32, part []byte) error {
	if in.env.filter.Discarded() { // nobody will claim it
		in.size += uint64(len(part))
		return nil
	}
	for _, id := range in.ids() {
		turn := int64(1)
		if !in.holds() {
			turn = chunksInFlight
		}
		if err := g.turns.Acquire(g.ctx, turn); err != nil {
			return err
		}
		f, err := spool.Encode(spool.KindChunk, &pb.Chunk{Id: id, Seq: seq}, part)
		if err != nil {
			return err
		}
		in.sends(cap(f))
		g.Go(func() error {
			defer g.turns.Release(turn)
			defer in.flying.Add(-int64(cap(f)))
			_, err := in.replica.Propose(g.ctx, f)
			return err
		})
	}
	in.read(part)
	in.size += uint64(len(part))
	return nil
}

// sendTop sends the top that was held back.
func (in *intake) sendTop(ctx context.Context) error {
	if in.state != bodyHeldTop {
		return nil
	}
	g := newConvoy(ctx)
	var err error
	held := int(in.held)
	for seq := 0; seq < held && err == nil; seq++ {
		from, to := len(in.top)*seq/held, len(in.top)*(seq+1)/held
		err = in.proposeChunk(g, uint32(seq), in.top[from:to])
	}
	return g.ended(err)
}

// fit puts the body into chunks where it and the envelope together may be over
// the limit of a frame, and refuses an envelope that is over it alone.
func (in *intake) fit(ctx context.Context, h *pb.Accept) error {
	const slack = 4096 // what fillBody fills in
	envelope := proto.Size(h) + slack
	if envelope > spool.MaxFrame {
		return errWide
	}
	if !h.Inline || envelope+len(in.buf) <= spool.MaxFrame {
		return nil
	}
	g := newConvoy(ctx)
	if err := in.sendChunk(g); err != nil {
		return g.ended(err)
	}
	h.Inline = false
	return g.Wait()
}

// abort gives up chunks that went ahead. It is best effort: Sweep finds what
// stays behind.
func (in *intake) abort() {
	if in.state == bodyInline || in.state == bodyDropped {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, id := range in.ids() {
		if _, err := replica.Propose(ctx, in.replica, spool.KindAbort, &pb.Abort{Id: id}); err != nil {
			in.log.Debug("abort not applied", zap.Stringer("id", in.id), zap.Error(err))
		}
	}
}
