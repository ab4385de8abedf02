package inbound

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
)

// chunksInFlight is how many parts of one large body travel through the log
// at a time; with spool.MaxInline it bounds what a large message costs.
const chunksInFlight = 4

// sendAhead puts a large body into the log in chunks, a few in flight, before
// the Accept that claims them.
func (in *intake) sendAhead(ctx context.Context, r io.Reader) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksInFlight)
	for {
		if err := in.sendChunk(gctx, g); err != nil {
			_ = g.Wait()
			return err
		}
		if in.ended {
			return g.Wait()
		}
		if err := in.fill(r); err != nil {
			_ = g.Wait()
			return err
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
func (in *intake) sendChunk(ctx context.Context, g *errgroup.Group) error {
	for len(in.buf) > 0 {
		part := in.buf[:min(len(in.buf), spool.MaxInline)]
		if err := in.proposeChunk(ctx, g, in.chunks, part); err != nil {
			return err
		}
		in.chunks++
		if in.state == bodyInline {
			in.state = bodyChunked
		}
		in.tail = lastTwo(in.tail, part)
		in.buf = append(in.buf[:0], in.buf[len(part):]...)
	}
	return ctx.Err()
}

func (in *intake) proposeChunk(ctx context.Context, g *errgroup.Group, seq uint32, part []byte) error {
	if in.env.filter.Discarded() { // nobody will claim it
		in.size += uint64(len(part))
		return nil
	}
	for _, id := range in.ids() {
		f, err := spool.Encode(spool.KindChunk, &pb.Chunk{Id: id, Seq: seq}, part)
		if err != nil {
			return err
		}
		g.Go(func() error {
			_, err := in.replica.Propose(ctx, f)
			return err
		})
	}
	in.digest.Write(part)
	in.size += uint64(len(part))
	return nil
}

// sendTop sends the top that was held back.
func (in *intake) sendTop(ctx context.Context) error {
	if in.state != bodyHeldTop {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksInFlight)
	var err error
	held := int(in.held)
	for seq := 0; seq < held && err == nil; seq++ {
		from, to := len(in.top)*seq/held, len(in.top)*(seq+1)/held
		err = in.proposeChunk(gctx, g, uint32(seq), in.top[from:to])
	}
	return errors.Join(err, g.Wait())
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
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksInFlight)
	if err := in.sendChunk(gctx, g); err != nil {
		_ = g.Wait()
		return err
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
