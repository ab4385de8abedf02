package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// claims are this node's registrations as the replicated state judges them from
// cluster version 2 on: each has a nonce that is on disk before it is sent, names
// the nonces of those before, and takes the place of a session only when whoever
// has that can not act any more. It belongs to the session's goroutine.
//
// An unknown chain of nonces is STALE and fatal, a session that is still renewed is
// BUSY. After kill -9 at the same IP address that takes 1.2 renewals (1.4 s measured);
// at a DNS name, which may mean another machine elsewhere, too, where the promise says
// that the session was registered from this very directory (birth of raft.db) since
// this machine was booted: the process that did held the LOCK that we hold. Else the
// lease has to run out.
type claims struct {
	c       *Cluster
	over    rival  // the session whose place the next attempt takes
	moved   int    // how often in a row that session was renewed meanwhile
	mine    uint64 // the last session of this process
	checked bool   // what hello told of a session was looked at
}

// tooLively is how often in a row a session must have been renewed while this
// node waited for its end, until another process is to blame.
const tooLively = 3

// Prepare makes a Register ready to be sent.
func (k *claims) Prepare(ctx context.Context, h *pb.Register) error {
	p := k.c.promise.Look()
	if !slices.Contains(p.Pending, h.Nonce) {
		if err := k.makeRoom(ctx, len(p.Pending)); err != nil {
			return err
		}
		if err := k.c.promise.Write(func(p *datadir.Promised) {
			p.Pending, p.Here = append(slices.Clone(p.Pending), h.Nonce), append(slices.Clone(p.Here), h.Nonce)
		}); err != nil {
			return err
		}
	}
	if !k.c.At(2) && !k.c.newer.Load() && p.Version < 2 {
		return nil
	}
	if r := k.c.rival.Load(); r != nil && !k.checked {
		k.checked = true
		k.over = *r
		k.await(ctx)
	}
	h.Previous = k.c.promise.Look().Nonces()
	h.OverEpoch, h.OverRenewed = k.over.Epoch, k.over.Renewed
	h.Term, h.Last = k.c.place()
	h.Member.Log = k.c.id.Log
	return nil
}

// makeRoom forgets nonces where there are too many that were never answered: only
// the state, as of a read index, tells which of them counts.
func (k *claims) makeRoom(ctx context.Context, pending int) error {
	if pending < datadir.MaxPending {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime+4*k.c.t.Latency)
	defer cancel()
	err := k.c.Consistent(ctx)
	var m *pb.Member
	if err == nil {
		err = k.c.store.View(func(v spool.View) (err error) {
			m, _, err = v.Member(k.c.id.Node)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("%d registrations were never answered, and no leader tells which of them counts: %w", pending, err)
	}
	return k.c.promise.Write(func(p *datadir.Promised) { p.Pending = needed(p.Pending, m.GetNonce()) })
}

// needed are the nonces that may count still: the one on record, and the newest, as
// what was sent last may be under way.
func needed(pending []string, recorded string) []string {
	old := pending[:max(0, len(pending)-datadir.MaxPending/2)]
	kept := slices.Clone(pending[len(old):])
	if slices.Contains(old, recorded) {
		kept = append([]string{recorded}, kept...)
	}
	return kept
}

// Busy takes the answer that the node's id has a session, or that this node lags
// behind, and waits until it is worth asking again.
func (k *claims) Busy(ctx context.Context, res *pb.Result) {
	if res.Epoch == 0 {
		clock.Sleep(ctx, k.c.t.Renew/4)
		return
	}
	// Renewals of a session that this process gave up may be on their way still.
	if k.moved++; k.over.Epoch != res.Epoch || k.over.Renewed == res.Renewed || res.Epoch == k.mine {
		k.moved = 0
	}
	if k.moved == tooLively {
		k.c.disqualified(ctx, "node "+k.c.id.Node+" runs at "+res.Node+", too")
		return
	}
	if k.over.Epoch != res.Epoch {
		k.over.Dead = 0
	}
	k.over = rival{Epoch: res.Epoch, Renewed: res.Renewed, Address: res.Node, Dead: k.over.Dead, at: clock.BootNow()}
	k.c.log.Info("cluster: this node has a session still; waiting until whoever has it has stopped",
		zap.Uint64("epoch", res.Epoch), zap.String("address", res.Node))
	k.await(ctx)
}

// Stale ends this start: its registration names none that counts.
func (k *claims) Stale(ctx context.Context, res *pb.Result) { k.c.disqualified(ctx, res.Text) }

// await waits until whoever has the session that is in the way has renewed it, or
// can not act any more. Nobody but us can at our own address, and nobody who ran here.
// The state may lag at first; the wait ends as soon as it tells that there is less to
// wait for.
func (k *claims) await(ctx context.Context) {
	if k.over.Epoch == k.mine {
		return // this process gave it up
	}
	ours := k.c.ownAddress(k.over.Address) || k.c.wasHere(k.over.Epoch)
	for ctx.Err() == nil {
		hold := k.hold(ours)
		left := k.over.at + hold - clock.BootNow()
		if left <= 0 {
			return
		}
		clock.Sleep(ctx, min(left, k.c.t.Renew/4))
	}
}

// hold is how long the session that is in the way holds after a renewal.
func (k *claims) hold(ours bool) time.Duration {
	if ours {
		return k.c.t.Renew * 6 / 5
	}
	s, ended := k.session()
	if ended {
		k.over = rival{} // if another one is there by now, the answer tells
		return 0
	}
	return max(k.c.detector.SurelyDead(s), time.Duration(k.over.Dead)*time.Millisecond)
}

// Settled takes the answer that a registration was taken.
func (k *claims) Settled(nonce string, epoch uint64) {
	k.mine, k.over, k.moved, k.checked = epoch, rival{}, 0, true
	k.c.promise.Note(func(p *datadir.Promised) { p.Acked, p.Pending = datadir.Acked{Nonce: nonce, Epoch: epoch}, nil })
}

// place says how far this node's log goes, as others may hold against an older
// copy of it: a later leader may shorten it before its first entry of that term.
func (c *Cluster) place() (term, last uint64) {
	lastTerm, last := c.lastEntry()
	if term = c.raft.CurrentTerm(); term != lastTerm {
		last = 0
	}
	return term, last
}

// session is the session that is in the way as far as this node knows, or ended where the
// state is past its epoch and has it no more. A state that lags does not know it: it may
// hold for as long as any.
func (k *claims) session() (s *pb.Session, ended bool) {
	applied := k.c.store.Applied()
	err := k.c.store.View(func(v spool.View) (err error) {
		s, _, err = v.Session(k.c.id.Node)
		return err
	})
	if err == nil && s.GetEpoch() == k.over.Epoch {
		return s, false
	}
	return unknownSession(k.over), err == nil && applied >= k.over.Epoch
}

// unknownSession stands for a session that this node's state does not have.
func unknownSession(r rival) *pb.Session {
	if r.Dead != 0 { // the leader has said how long it holds
		return &pb.Session{}
	}
	return &pb.Session{LeaseMs: spool.MaxLease.Milliseconds()}
}
