package queue

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// memory is a Spool and an Agent that cost nothing.
type memory struct {
	settled atomic.Int64
	want    int64
	done    chan struct{}
}

// Scan never ends, so that nothing is forgotten because it did not report it.
func (*memory) Scan(ctx context.Context, _ func(Waiting)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (*memory) Until() time.Time { return time.Now().Add(time.Hour) }

func (*memory) Load(_ context.Context, id ID, ns []uint32) (*Job, error) {
	j := &Job{ID: id, Created: time.Now(), Sender: "a@example.net", Recipients: make([]Recipient, len(ns))}
	for i, n := range ns {
		j.Recipients[i] = Recipient{N: n, Address: "b@example.com"}
	}
	return j, nil
}

func (s *memory) Settle(_ context.Context, v []Verdict, _ []Notice) ([]Taken, error) {
	taken := make([]Taken, len(v))
	for i := range taken {
		taken[i] = Applied
	}
	if s.settled.Add(int64(len(v))) >= s.want {
		close(s.done)
	}
	return taken, nil
}

func (*memory) Deliver(_ context.Context, j *Job) []Verdict {
	v := make([]Verdict, len(j.Recipients))
	for i, r := range j.Recipients {
		v[i] = Verdict{
			Ref: Ref{ID: j.ID, Recipient: r.N}, Outcome: Delivered, Reply: "250 2.0.0 Ok", Host: "mx [192.0.2.1]:25",
		}
	}
	return v
}

func nth(i int, due time.Time, domain string) Waiting {
	var id ID
	binary.BigEndian.PutUint64(id[:], uint64(time.Now().UnixMilli())<<16)
	binary.BigEndian.PutUint64(id[8:], uint64(i)*0x9e3779b97f4a7c15)
	return Waiting{Ref: Ref{ID: id}, Domain: domain, Next: due, Size: 4096}
}

// BenchmarkMillion adds a million entries that are due later; b.N is not used
// for their number. It reports octets and time an entry.
func BenchmarkMillion(b *testing.B) {
	for _, domains := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprintf("%d-domains", domains), func(b *testing.B) {
			names := make([]string, domains)
			for i := range names {
				names[i] = fmt.Sprintf("domain-%d.example.com", i)
			}
			for b.Loop() {
				const n = 1_000_000
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				m := New(Config{Spool: &memory{}})
				soon := time.Now().Add(time.Hour)
				start := time.Now()
				worst := time.Duration(0)
				for i := range n {
					t := time.Now()
					m.Add([]Waiting{nth(i, soon.Add(time.Duration(i*7919%n)*time.Millisecond), names[i%domains])})
					worst = max(worst, time.Since(t))
				}
				spent := time.Since(start)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "octets/entry")
				b.ReportMetric(float64(spent.Nanoseconds())/n, "ns/Add")
				b.ReportMetric(float64(worst.Microseconds()), "µs-worst-Add")
				runtime.KeepAlive(m)
			}
		})
	}
}

// BenchmarkJobs measures jobs of one recipient from Add to the committed verdict.
func BenchmarkJobs(b *testing.B) {
	s := &memory{want: int64(b.N), done: make(chan struct{})}
	m := New(Config{Spool: s, Agent: s})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.Run(ctx); close(ended) }()
	b.ReportAllocs()
	b.ResetTimer()
	now := time.Now()
	for i := range b.N {
		m.Add([]Waiting{nth(i, now, "example.com")})
	}
	<-s.done
	b.StopTimer()
	cancel()
	<-ended
}

// BenchmarkLatency measures one job at a time.
func BenchmarkLatency(b *testing.B) {
	s := &latency{got: make(chan struct{})}
	m := New(Config{Spool: s, Agent: s})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.Run(ctx); close(ended) }()
	b.ResetTimer()
	now := time.Now()
	for i := range b.N {
		m.Add([]Waiting{nth(i, now, "example.com")})
		<-s.got
	}
	b.StopTimer()
	cancel()
	<-ended
}

type latency struct {
	memory
	got chan struct{}
}

func (s *latency) Settle(_ context.Context, v []Verdict, _ []Notice) ([]Taken, error) {
	taken := make([]Taken, len(v))
	for i := range taken {
		taken[i] = Applied
	}
	return taken, nil
}

func (s *latency) Deliver(ctx context.Context, j *Job) []Verdict {
	s.got <- struct{}{}
	return s.memory.Deliver(ctx, j)
}
