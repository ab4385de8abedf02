package spool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// greeter sends one attempt a command.
func greeter(r *replica) func(network, sender string) (pb.Code, time.Duration) {
	return func(network, sender string) (pb.Code, time.Duration) {
		res := r.do(spool.KindGreet, &pb.Greet{Attempts: []*pb.Attempt{
			{Triplet: spool.Triplet(network, sender, "here.example"), Network: network, DelayMs: 60_000},
		}})
		return res.Codes[0], time.Duration(res.WaitsMs[0]) * time.Millisecond
	}
}

func TestGreylist(t *testing.T) {
	r := newReplica(t)
	greet := greeter(r)
	code, wait := greet("192.0.2.0/24", "a@far.example")
	require.Equal(t, pb.Code_TOO_SOON, code)
	require.Equal(t, time.Minute, wait)
	r.now = r.now.Add(20 * time.Second)
	code, wait = greet("192.0.2.0/24", "a@far.example")
	require.Equal(t, pb.Code_TOO_SOON, code)
	require.InDelta(t, 40*time.Second, wait, float64(time.Second), "impatience does not begin anew")
	r.now = r.now.Add(40 * time.Second)
	code, _ = greet("192.0.2.0/24", "a@far.example")
	require.Equal(t, pb.Code_OK, code)
	code, _ = greet("192.0.2.0/24", "a@far.example")
	require.Equal(t, pb.Code_OK, code)
	for network, sender := range map[string]string{"192.0.2.0/24": "b@far.example", "192.0.3.0/24": "a@far.example"} {
		code, _ = greet(network, sender)
		require.Equal(t, pb.Code_TOO_SOON, code, "another triplet")
	}

	r.now = r.now.Add(9 * time.Hour)
	code, _ = greet("192.0.2.0/24", "b@far.example")
	require.Equal(t, pb.Code_TOO_SOON, code, "the window is over")
	for range 10 { // in use, it lives for ever
		r.now = r.now.Add(30 * 24 * time.Hour)
		code, _ = greet("192.0.2.0/24", "a@far.example")
		require.Equal(t, pb.Code_OK, code)
	}
	invariants(t, r.store)
	r.now = r.now.Add(37 * 24 * time.Hour)
	code, _ = greet("192.0.2.0/24", "a@far.example")
	require.Equal(t, pb.Code_TOO_SOON, code, "forgotten")
	invariants(t, r.store)
	r.now = r.now.Add(100 * 24 * time.Hour)
	require.EqualValues(t, 1, r.do(spool.KindSweep, &pb.Sweep{Limit: 1}).Count, "in steps")
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	require.Zero(t, r.counter(spool.CountGrey))
	invariants(t, r.store)
}

func TestGreylistTrustsANetworkOfRetriers(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{GreylistTrust: 2}})
	greet := greeter(r)
	senders := []string{"a", "b", "c"}
	for _, s := range senders[:2] {
		code, _ := greet("192.0.2.0/24", s)
		require.Equal(t, pb.Code_TOO_SOON, code)
		r.now = r.now.Add(time.Minute)
		code, _ = greet("192.0.2.0/24", s)
		require.Equal(t, pb.Code_OK, code)
	}
	code, _ := greet("192.0.2.0/24", senders[2])
	require.Equal(t, pb.Code_OK, code)
	code, _ = greet("192.0.3.0/24", senders[2])
	require.Equal(t, pb.Code_TOO_SOON, code)
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{GreylistTrust: -1}})
	code, _ = greet("192.0.2.0/24", senders[2])
	require.Equal(t, pb.Code_TOO_SOON, code, "trust can be switched off")
	invariants(t, r.store)
}

// A flood of first attempts drives out other first attempts, not those who came
// back.
func TestGreylistIsBounded(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{GreylistRecords: 100}})
	greet := greeter(r)
	greet("192.0.2.0/24", "good")
	r.now = r.now.Add(time.Minute)
	code, _ := greet("192.0.2.0/24", "good")
	require.Equal(t, pb.Code_OK, code)
	for i := range 21 {
		h := &pb.Greet{}
		for j := range 10 {
			h.Attempts = append(h.Attempts, &pb.Attempt{
				Triplet: spool.Triplet("198.51.100.0/24", fmt.Sprint(i, j), ""), Network: "198.51.100.0/24", DelayMs: 60_000,
			})
		}
		r.do(spool.KindGreet, h)
	}
	require.EqualValues(t, 100, r.counter(spool.CountGrey))
	code, _ = greet("192.0.2.0/24", "good")
	require.Equal(t, pb.Code_OK, code)
}
