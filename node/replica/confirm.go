package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/rounds"
	"relay/cluster/spool"
)

// ErrUnsure takes the place of a refusal that may be wrong: this node can't tell
// just now what the directory says. It is temporary in every protocol.
const ErrUnsure = temporaryError("this node can not tell whether its directory is up to date")

// ErrOutdated takes the place of a refusal by what the directory says no more,
// where the client has to begin anew.
const ErrOutdated = temporaryError("the directory was changed meanwhile")

type temporaryError string

func (e temporaryError) Error() string   { return string(e) }
func (e temporaryError) Permanent() bool { return false }

// Permanent reports whether an error is a permanent refusal: a client of SMTP or POP3 that is told of it does not come
// again. The outermost error in the chain that has a method Permanent says so; an error without one is temporary.
func Permanent(err error) bool {
	var one interface{ Permanent() bool }
	return errors.As(err, &one) && one.Permanent()
}

const (
	// ReadTimeout bounds a read, and the wait for one.
	ReadTimeout = 2 * time.Second
	// ReadInterval parts the beginnings of two reads: however many recipients are
	// guessed at, the leader proves 200 times a second and node that it leads.
	ReadInterval = 5 * time.Millisecond
)

// Confirmer sees to it that permanent refusals never rest on stale data: a record
// that one node has in its directory another one may not have applied yet, and
// shows as missing. A node has one Confirmer for all its protocols. Its methods
// may be called concurrently.
//
// One read serves all who wait for it (package rounds), and does not end where one
// of their clients disconnects: one read is under way and one waits at most.
//
// # Why, and what it costs
//
// The local replica decides, and it may lag: by some 20 ms, by seconds where a follower is stalled. A
// record that is missing in it, or disabled, or has another password, may have been made or changed at
// another node a moment ago, and that node has said so. So whatever a client would take for a
// permanent refusal because of the directory is decided once more when the replica is up to date
// (Confirmer.Confirm): unknown recipient, relaying denied, disabled account, alias that can not be
// expanded, sender address that is not the account's, VRFY, EXPN, ETRN, a wrong password or an unknown
// user at AUTH and POP3, WAKE, XCLIENT LOGIN, the report on an unknown recipient of a submission,
// relayctl send, and mailboxes whose mail waited in the queue. A message that was refused for a loop,
// or by the rules of its recipients' domains, was taken by what RCPT saw: where that is so no more the
// answer is 451, as there is nothing to take back. So it is with a proof by SCRAM that does not fit:
// it is wrong where the keys that the client was told are still the user's (those of a user who is not
// there, too), else the client has to begin anew. That is looked up after the proof only, or the time
// of the first answer would tell who exists. A name that is wrong by its form alone (percent hack, no
// domain) asks nobody, and what is not refused costs nothing.
//
// Consistent is that look: the leader proves with a round of heartbeats that it leads, nothing is
// written, and this node waits until it has applied what was committed then. It has two seconds; after
// that, and without a majority, the answer is 451 4.3.0, 454 4.7.0 or [SYS/TEMP], and no failed login
// is counted. A guesser must not get much for it: a read that began after a refusal was found serves
// all who wait, so one is under way and one waits, and two begin 5 ms apart at least.
//
//	guesses by RCPT, three nodes on two cores  refused/s  cpu each, clients included  mail of one sender, p50
//	1 session, local reads only                23,000     24 µs                       5.9 ms
//	1 session                                  170                                    1.4 ms
//	30 sessions, local reads only              22,000     25 µs                       12 ms
//	30 sessions, no pause between reads        8,400      62 µs                       6.1 ms
//	30 sessions                                3,600      140 µs                      2.3 ms
//	300 sessions, local reads only             20,000     34 µs                       85 ms
//	300 sessions                               10,000     55 µs                       28 ms
//
// go test ./node/nodetest -run '^$' -bench RefusedRecipients -benchtime 15000x (the processor time has
// that of the sender's mail in it). A guesser waits for the network, so others' mail gets through
// better than before. relay_refusals_wrong_total counts what a lagging node would have refused.
// Rejected: the read before every decision (each message would pay a round trip); a goroutine that
// lives as long as the node (one more to stop, and idle; that of rounds ends with the last waiter);
// answering 4xx from a replica that is behind (a node
// can't tell that it is, and the sender of a mistyped address would wait for days for its bounce).
type Confirmer struct {
	replica Replica
	log     *zap.Logger
	wg      sync.WaitGroup // of reads, which end by themselves
	reads   *rounds.Rounds[struct{}]

	Stats ConfirmStats
}

// ConfirmStats count what refusals cost and came to.
type ConfirmStats struct {
	Found  atomic.Int64 // refusals by what the replica showed
	Reads  atomic.Int64 // that brought the replica up to date for them
	Wrong  atomic.Int64 // of the refusals, what they did not survive
	Unsure atomic.Int64 // put off, for there was no such read in time
}

// NewConfirmer makes the Confirmer of a node.
func NewConfirmer(r Replica, log *zap.Logger) *Confirmer {
	f := &Confirmer{replica: r, log: log}
	f.reads = rounds.New(context.Background(), &f.wg, ReadInterval, f.read)
	return f
}

// Confirm has judge decide by what the replica shows, and once more, when that is
// up to date, where it refuses for good. judge may be called twice, with different
// views. Confirm returns what judge said last, or an error that wraps ErrUnsure.
// An error that is not permanent costs nothing.
func (f *Confirmer) Confirm(ctx context.Context, judge func(spool.View) error) error {
	err := f.replica.View(judge)
	if !Permanent(err) {
		return err
	}
	if err := f.CatchUp(ctx); err != nil {
		return err
	}
	return f.Overturned(f.replica.View(judge))
}

// Overturned counts a refusal that did not survive an up-to-date look, and returns
// err: what that look said.
func (f *Confirmer) Overturned(err error) error {
	if !Permanent(err) {
		f.Stats.Wrong.Add(1)
	}
	return err
}

// CatchUp returns when the replica shows all that was acknowledged anywhere before
// the call. It waits for two seconds; then its error wraps ErrUnsure.
func (f *Confirmer) CatchUp(ctx context.Context) error {
	f.Stats.Found.Add(1)
	ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
	defer cancel()
	_, err := f.reads.Do(ctx)
	if err != nil {
		f.Stats.Unsure.Add(1)
		return fmt.Errorf("%w: %w", ErrUnsure, err)
	}
	return nil
}

// read is one look, for all who wait for it.
func (f *Confirmer) read(ctx context.Context) (none struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
	defer cancel()
	f.Stats.Reads.Add(1)
	if err = f.replica.Consistent(ctx); err != nil {
		f.log.Debug("no refusals: the replica is not known to be up to date", zap.Error(err))
	}
	return none, err
}
