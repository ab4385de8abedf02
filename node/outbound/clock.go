package outbound

import (
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/queue"
)

// jumped tells when entries are due after the cluster's time has jumped: an entry put
// off by the time before a jump back would wait for as long as that was wrong.
type jumped struct {
	ts      *pb.TimeState
	now     time.Time
	policy  queue.RetryPolicy
	message func(id spool.ID) (*pb.Message, error)
}

// due is when an entry is due: as it says or, where it was written before the
// last jump, at the latest when its wait would end that begins with the jump. So
// it is with a verdict that was on its way during the jump: it is of the future.
func (j *jumped) due(id spool.ID, r *pb.Recipient) (time.Time, error) {
	next := time.UnixMilli(r.NextMs)
	index := j.ts.GetJumpedIndex()
	before := r.Changed < index || index != 0 && r.LastMs > j.now.Add(onTheWay/2).UnixMilli()
	if !before || r.NextMs <= j.ts.JumpedMs {
		return next, nil
	}
	wait := j.policy.Longest(int(r.Attempts))
	if r.Attempts == 0 { // it may wait for its time (RFC 4865)
		m, err := j.message(id)
		if err != nil {
			return next, err
		}
		wait = time.Duration(max(0, m.GetHoldUntilMs()-m.GetCreatedMs())) * time.Millisecond
	}
	latest := time.UnixMilli(j.ts.JumpedMs).Add(wait)
	if latest.Before(next) {
		return latest, nil
	}
	return next, nil
}

// onTheWay is how long after a jump verdicts may be applied that were made before
// it; half of it tells them by their date, as jumps back are by more than a minute.
const onTheWay = time.Minute

// retry is when an entry is due that was put off just now, at next as its verdict
// says: after a jump at the latest when its longest wait is over.
func (j *jumped) retry(next time.Time, attempts uint32) time.Time {
	if latest := j.now.Add(j.policy.Longest(int(attempts))); latest.Before(next) {
		return latest
	}
	return next
}

// justJumped reads what due times go by where the time has jumped lately; nil: not.
func (o *Spool) justJumped() *jumped {
	ts := o.timing.Load()
	if ts.GetJumpedIndex() == 0 || o.replica.Now().Sub(time.UnixMilli(ts.JumpedMs)) > onTheWay {
		return nil
	}
	var after *jumped
	err := o.replica.View(func(v spool.View) (err error) {
		after, err = o.afterJumps(v)
		return err
	})
	if err != nil {
		o.log.Error("cannot read the settings", zap.Error(err))
		return nil
	}
	return after
}
