package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/tuning"
)

// TestHeartbeatsGoOutTogether: those to two followers, which raft gives at odd moments, at
// the next beat, and none later than one beat after the last one.
func TestHeartbeatsGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const beat = 250 * time.Millisecond
		p := newPulse(make(chan struct{}))
		p.every = beat
		req := &raft.AppendEntriesRequest{Term: 3}
		begin := time.Now() // a multiple of all beats
		at := func(node string) time.Duration {
			require.NoError(t, p.keep(node, req))
			return time.Since(begin)
		}
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 10*time.Millisecond, at("n2"), "the first of all goes out at once")
		time.Sleep(130 * time.Millisecond)
		require.Equal(t, beat, at("n2"))
		time.Sleep(180 * time.Millisecond)
		ends := make(chan time.Duration)
		p.sent["n3"] = begin.Add(beat)
		go func() { ends <- at("n3") }()
		require.Equal(t, 2*beat, at("n2"))
		require.Equal(t, 2*beat, <-ends)

		p.sent["n2"] = begin.Add(2*beat - 50*time.Millisecond)
		time.Sleep(50 * time.Millisecond)
		require.Equal(t, 3*beat-50*time.Millisecond, at("n2"), "a beat after the last one, though the next is later")
	})
}

// TestEntriesReplaceAHeartbeat: at the beat at which sessions are renewed, where they are acknowledged soon.
func TestEntriesReplaceAHeartbeat(t *testing.T) {
	const beat, renew = 240 * time.Millisecond, 960 * time.Millisecond
	for name, c := range map[string]struct {
		entry time.Duration // from the beat on; 0: there is none
		node  string        // that acknowledges it
		next  time.Duration // when the heartbeat goes out, from the beat on
	}{
		"at once":                  {3 * time.Millisecond, "n2", beat},
		"none":                     {0, "n2", beat / 16},
		"too late":                 {20 * time.Millisecond, "n2", beat / 16},
		"only by the other":        {3 * time.Millisecond, "n3", beat / 16},
		"just before":              {-3 * time.Millisecond, "n2", beat / 16},
		"after the beat before it": {3*time.Millisecond - beat, "n2", beat / 16},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPulse(make(chan struct{}))
				p.every, p.renew = beat, renew
				// A multiple of all beats.
				time.Sleep(tuning.UntilBeat(time.Now(), renew) + renew - beat)
				renewed := time.Now().Add(beat)
				p.sent["n2"] = time.Now()
				if c.entry != 0 {
					time.AfterFunc(beat+c.entry, func() { p.acknowledged(c.node, time.Now().Add(-time.Millisecond)) })
				}
				require.NoError(t, p.keep("n2", &raft.AppendEntriesRequest{Term: 3}))
				require.Equal(t, c.next, time.Since(renewed))
				require.Zero(t, p.hopes.Load())
			})
		})
	}
}

// TestHeartbeatsThatHurry: they are let go by whatever wants their answers or ends them.
func TestHeartbeatsThatHurry(t *testing.T) {
	for name, c := range map[string]struct {
		wake  func(p *pulse, done chan struct{}, term *uint64)
		after time.Duration
		err   error
	}{
		"somebody waits for the answer": {func(p *pulse, _ chan struct{}, _ *uint64) { p.hurry() }, 0, nil},
		"nothing happens":               {func(*pulse, chan struct{}, *uint64) {}, 150 * time.Millisecond, nil},
		"the node stops": {func(_ *pulse, done chan struct{}, _ *uint64) { close(done) }, 0,
			tuning.ErrPastTerm},
		"its term ended": {func(p *pulse, _ chan struct{}, term *uint64) {
			*term = 4
			p.look()
		}, 0, tuning.ErrPastTerm},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				done, term := make(chan struct{}), uint64(3)
				p := newPulse(done)
				p.every, p.leads = 250*time.Millisecond, func(t uint64) bool { return t == term }
				p.sent["n2"] = time.Now()
				ended := make(chan error, 1)
				go func() { ended <- p.keep("n2", &raft.AppendEntriesRequest{Term: 3}) }()
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				c.wake(p, done, &term)
				began := time.Now()
				require.ErrorIs(t, <-ended, c.err)
				require.Equal(t, c.after, time.Since(began))
			})
		})
	}
}

// TestNoHeartbeatWaitsWhileSomebodyHurries, nor after a failure; later they wait again.
func TestNoHeartbeatWaitsWhileSomebodyHurries(t *testing.T) {
	p := newPulse(make(chan struct{}))
	p.every = time.Minute
	now := time.Now()
	p.sent["n2"] = now
	wait := func() bool {
		d, _, _ := p.due("n2", now)
		return d > 0
	}
	require.True(t, wait())
	one, two := p.hurry(), p.hurry()
	require.False(t, wait())
	one()
	require.False(t, wait())
	two()
	require.True(t, wait())
	p.forget("n2")
	require.False(t, wait())
}
