package admintest

import (
	"context"
	"io"

	"relay/node/admin"
)

// Events implements admin.Events: a watcher sees the events of Happen that its filter lets pass,
// and then the end.
func (f *Fake) Events(_ context.Context, filter admin.EventFilter) (admin.EventStream, error) {
	unlock, err := f.ask("Events")
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &stream{}
	for _, e := range f.happened {
		if filter.Matches(&e) {
			s.list = append(s.list, e)
		}
	}
	return s, nil
}

// Happen gives the events that watchers see.
func (f *Fake) Happen(list ...admin.StreamEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.happened = list
}

type stream struct{ list []admin.StreamEvent }

// Next implements admin.EventStream.
func (s *stream) Next(context.Context) ([]admin.StreamEvent, error) {
	if len(s.list) == 0 {
		return nil, io.EOF
	}
	list := s.list
	s.list = nil
	return list, nil
}

// Close implements admin.EventStream.
func (s *stream) Close() {}
