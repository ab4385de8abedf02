package events

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

const (
	batch = 256              // events handed on at once
	quiet = 15 * time.Second // after so long without an event a watcher is told that there is none
)

// Service is the port of the admin API over a Hub.
type Service struct {
	Hub *Hub
	// View reads this node's state.
	View func(func(spool.View) error) error
	// Timeline makes lines of the API out of events, see operator.Timeline.
	Timeline func(spool.View) (func(*pb.Event) admin.TraceEvent, error)
}

// Events implements admin.Events.
func (s *Service) Events(_ context.Context, f admin.EventFilter) (admin.EventStream, error) {
	from, restored, ok := s.Hub.join()
	if !ok {
		return nil, admin.Problem(http.StatusServiceUnavailable,
			fmt.Sprintf("%d programs watch this node's events already, or the node stops", watchersMost),
			"end one of them, or watch another node")
	}
	return &watcher{s: s, filter: f, at: from, restored: restored}, nil
}

// watcher is one who watches.
type watcher struct {
	s        *Service
	filter   admin.EventFilter
	at       uint64
	restored uint64
	left     sync.Once
}

// Close implements admin.EventStream.
func (w *watcher) Close() { w.left.Do(w.s.Hub.leave) }

// Next implements admin.EventStream.
func (w *watcher) Next(ctx context.Context) ([]admin.StreamEvent, error) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		seen := w.s.Hub.look(w.at, batch)
		lost := seen.restored != w.restored
		w.at, w.restored = seen.next, seen.restored
		out, err := w.lines(seen.list)
		if err != nil {
			return nil, err
		}
		if lost {
			out = append([]admin.StreamEvent{admin.Missed(0)}, out...)
		} else if seen.missed > 0 {
			out = append([]admin.StreamEvent{admin.Missed(seen.missed)}, out...)
		}
		switch {
		case len(out) > 0:
			return out, nil
		case len(seen.list) > 0:
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // the filter left nothing of them; there may be more
		case seen.closed:
			return nil, io.EOF
		}
		select {
		case <-seen.more:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lines makes the events that the filter wants.
func (w *watcher) lines(list []spool.Happening) (out []admin.StreamEvent, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	return out, w.s.View(func(v spool.View) error {
		out = nil
		timeline, err := w.s.Timeline(v)
		if err != nil {
			return err
		}
		cluster, _, err := v.Cluster()
		if err != nil {
			return err
		}
		senders := map[spool.ID]string{}
		for i := range list {
			e, err := line(v, timeline, senders, &list[i])
			if err != nil {
				return err
			}
			e.ID = fmt.Sprintf("%s/%d.%d", cluster.GetId(), list[i].Index, list[i].N)
			if w.filter.Matches(&e) {
				out = append(out, e)
			}
		}
		return nil
	})
}

func line(v spool.View, timeline func(*pb.Event) admin.TraceEvent, senders map[spool.ID]string,
	h *spool.Happening) (e admin.StreamEvent, err error) {
	if h.Event == nil {
		a := h.Audit
		e.TraceEvent = admin.TraceEvent{At: admin.AtMs(a.AtMs), What: admin.EventAdmin, Node: a.Node, Who: a.Who,
			Why: a.Why, Detail: a.What, Index: a.Index}
		return e, nil
	}
	sender, known := senders[h.ID]
	if !known {
		m, _, err := v.Message(h.ID)
		if err != nil {
			return e, err
		}
		sender = m.GetSender()
		senders[h.ID] = sender
	}
	e.Message, e.Sender, e.TraceEvent = h.ID.String(), sender, timeline(h.Event)
	return e, nil
}
