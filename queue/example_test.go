package queue_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"relay/queue"
)

// one is a Spool with a single message, and an Agent that delivers it at once.
type one struct{ settled chan queue.Verdict }

func (one) Scan(_ context.Context, add func(queue.Waiting)) error {
	add(queue.Waiting{Ref: queue.Ref{ID: queue.ID{15: 1}}, Domain: "example.test", Next: time.Now()})
	return nil
}

func (one) Until() time.Time { return time.Now().Add(time.Hour) }

func (one) Load(_ context.Context, id queue.ID, recipients []uint32) (*queue.Job, error) {
	return &queue.Job{
		ID: id, Sender: "me@example.org", Created: time.Now(),
		Recipients: []queue.Recipient{{N: recipients[0], Address: "alice@example.test"}},
		Open:       func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("Subject: x\r\n\r\n")), nil },
	}, nil
}

func (o one) Settle(_ context.Context, verdicts []queue.Verdict, _ []queue.Notice) ([]queue.Taken, error) {
	taken := make([]queue.Taken, len(verdicts))
	for i, v := range verdicts {
		taken[i] = queue.Applied
		o.settled <- v
	}
	return taken, nil
}

func (one) Deliver(_ context.Context, job *queue.Job) []queue.Verdict {
	fmt.Println("to", job.Domain, "for", job.Recipients[0].Address)
	v := queue.Verdict{Outcome: queue.Delivered, Reply: "250 2.0.0 Ok"}
	v.Recipient = job.Recipients[0].N
	return []queue.Verdict{v}
}

// A manager that delivers what its Spool has at the start. Manager.Add tells it of what
// comes later.
func Example() {
	spool := one{settled: make(chan queue.Verdict, 1)}
	m := queue.New(queue.Config{Spool: spool, Agent: spool})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	v := <-spool.settled
	fmt.Println("attempt", v.Attempt, v.Reply)
	stop()
	<-ended
	// Output:
	// to example.test for alice@example.test
	// attempt 1 250 2.0.0 Ok
}
