package nodetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRefusedRecipients is a dictionary attack: sessions at every node of
// three guess at recipients, each its next one when it has the answer, while one
// sender hands in mail. It tells refusals a second, the processor time of all
// nodes and clients for each, and what the sender's messages took.
func BenchmarkRefusedRecipients(b *testing.B) {
	for _, sessions := range []int{0, 1, 30, 300} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			c := New(b, Options{})
			ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			var left, served atomic.Int64
			left.Store(int64(b.N))
			guess := func(m *Member) {
				s, err := m.Dial(ctx)
				if err != nil {
					b.Error(err)
					return
				}
				defer s.Close()
				_, err = s.say(250, "MAIL FROM:<>")
				for n := left.Add(-1); n >= 0 && err == nil; n = left.Add(-1) {
					_, err = s.say(550, fmt.Sprintf("RCPT TO:<guess%d@example.test>", n))
				}
				if err != nil {
					b.Error(err)
				}
			}
			sender, err := c.Nodes[0].Dial(ctx)
			require.NoError(b, err)
			defer sender.Close()
			var took []time.Duration
			before := processorTime()
			b.ResetTimer()
			for n := range sessions {
				wg.Go(func() { guess(c.Nodes[n%len(c.Nodes)]) })
			}
			stop := make(chan struct{})
			go func() { wg.Wait(); close(stop) }()
			for more := true; more; {
				began := time.Now()
				_, err := sender.Send("a@far.example", "alice@example.test", Letter(fmt.Sprint("m", served.Add(1))))
				require.NoError(b, err)
				took = append(took, time.Since(began))
				select {
				case <-stop:
					more = sessions == 0 && len(took) < b.N
				default:
				}
			}
			b.StopTimer()
			slices.Sort(took)
			at := func(percent int) float64 { return took[(len(took)-1)*percent/100].Seconds() * 1000 }
			if sessions > 0 {
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refused/s")
			}
			b.ReportMetric(float64(processorTime()-before)/float64(time.Microsecond)/float64(b.N), "cpu-us/op")
			b.ReportMetric(at(50), "mail-ms-p50")
			b.ReportMetric(at(99), "mail-ms-p99")
			b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "mail/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
