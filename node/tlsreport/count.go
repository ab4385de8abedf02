package tlsreport

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/queue/remote/tlsrpt"
	"relay/queue/remote/webguard"
)

const (
	every      = time.Hour
	flushTime  = 10 * time.Second
	maxDomains = 5_000     // that a node counts
	maxCommand = 128 << 10 // octets of counts
)

// Config is what a Reporter needs.
type Config struct {
	Replica  replica.Replica
	Node     string
	Hostname string
	Leads    func() bool
	// TXT returns the text records of a name; none and no error where DNS says that there are none.
	TXT func(ctx context.Context, name string) ([]string, error)
	Web func() *webguard.Client
	// Submit takes a message in, with the null reverse-path.
	Submit func(ctx context.Context, to string, message []byte) error
	Log    *zap.Logger
}

// Reporter counts and reports. Tally may be called concurrently.
type Reporter struct {
	conf   Config
	source string // of the counts of this start

	mu     sync.Mutex
	counts map[subject]*counted
}

// subject is a domain's day, in days since 1970.
type subject struct {
	day    uint32
	domain string
}

type counted struct {
	tlsrpt.Counts
	kept bool // the cluster has it as it is
}

// New makes a Reporter.
func New(c Config) *Reporter {
	id := replica.NewID(c.Replica.Now())
	return &Reporter{conf: c, source: c.Node + "/" + id.String(), counts: map[subject]*counted{}}
}

func dayOf(t time.Time) uint32 { return uint32(t.Unix() / (24 * 3600)) }

// Tally counts a session. Of more domains than a node counts the later ones are left out.
func (r *Reporter) Tally(s *tlsrpt.Session) {
	at := subject{dayOf(r.conf.Replica.Now()), s.Domain}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[at]
	if c == nil {
		if len(r.counts) >= maxDomains {
			return
		}
		c = &counted{}
		r.counts[at] = c
	}
	c.Counts, c.kept = c.Counts.Add(s), false
}

// Run leaves counts in the cluster, and sends reports while this node leads, until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
			defer cancel()
			r.flush(end)
			return nil
		case <-tick.C:
			r.flush(ctx)
			if r.conf.Leads() {
				r.send(ctx)
			}
		}
	}
}

// flush leaves what was counted since the last time in the cluster, in commands of a bounded size, and forgets former
// days.
func (r *Reporter) flush(ctx context.Context) {
	today := dayOf(r.conf.Replica.Now())
	r.mu.Lock()
	var commands []*pb.PutTls
	room := 0
	for at, c := range r.counts {
		if !c.kept {
			one := &pb.Tls{Day: at.day, Domain: at.domain, Source: r.source, Counts: text(c.Counts)}
			if room -= len(one.Counts) + len(one.Domain) + 200; room < 0 {
				commands, room = append(commands, &pb.PutTls{}), maxCommand
			}
			last := commands[len(commands)-1]
			last.Counts, c.kept = append(last.Counts, one), true
		}
		if at.day < today {
			delete(r.counts, at)
		}
	}
	r.mu.Unlock()
	for _, h := range commands {
		if err := r.propose(ctx, spool.KindPutTls, h); err != nil {
			r.conf.Log.Info("reports on TLS lack what this node has counted in the last hour", zap.Error(err))
			return
		}
	}
}

// text is counts as the cluster keeps them: without details of failures where these have no room.
func text(c tlsrpt.Counts) []byte {
	b, err := json.Marshal(c)
	if err == nil && len(b) <= spool.MaxTLSSize {
		return b
	}
	bare := make(tlsrpt.Counts, len(c))
	for i := range c {
		bare[i].Policy.Type, bare[i].Policy.Domain = c[i].Policy.Type, c[i].Policy.Domain
		bare[i].Summary = c[i].Summary
	}
	b, _ = json.Marshal(bare) // strings and numbers
	return b
}

func (r *Reporter) propose(ctx context.Context, kind spool.Kind, h proto.Message) error {
	res, err := replica.Propose(ctx, r.conf.Replica, kind, h)
	if err == nil && res.Code != pb.Code_OK {
		err = fmt.Errorf("the cluster refuses: %s", res.Text)
	}
	return err
}
