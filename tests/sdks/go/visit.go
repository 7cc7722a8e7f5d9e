// Visits by centrifuge-go and gocent, unmodified: what they are told and answered, one JSON object on each line.
//
//	visit ADDRESS CODEC TOKEN…      an SDK; it speaks as visit.py does
//	visit api ADDRESS KEY USER      a client of the server API; it calls each method once
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
	"github.com/centrifugal/gocent/v3"
)

type fields map[string]any

var saying sync.Mutex

func say(what string, more fields) {
	said := fields{"what": what}
	for name, value := range more {
		said[name] = value
	}
	line, err := json.Marshal(said)
	if err != nil {
		panic(err)
	}
	saying.Lock()
	defer saying.Unlock()
	fmt.Println(string(line))
}

func publication(channel string, pub centrifuge.Publication) {
	say("publication", fields{
		"channel": channel, "offset": pub.Offset, "data": json.RawMessage(pub.Data), "tags": pub.Tags,
	})
}

// tokens gives one token after another, until there are none.
type tokens struct {
	of   string
	left []string
}

func (t *tokens) next() (string, error) {
	say("token", fields{"of": t.of, "left": len(t.left)})
	if len(t.left) == 0 {
		return "", centrifuge.ErrUnauthorized
	}
	given := t.left[0]
	t.left = t.left[1:]
	return given, nil
}

type visit struct {
	client *centrifuge.Client
}

func newVisit(address string, protobuf bool, given []string) *visit {
	later := &tokens{left: given[1:]}
	config := centrifuge.Config{
		Token: given[0], MinReconnectDelay: 100 * time.Millisecond,
		GetToken: func(centrifuge.ConnectionTokenEvent) (string, error) { return later.next() },
	}
	var client *centrifuge.Client
	if protobuf {
		client = centrifuge.NewProtobufClient(address, config)
	} else {
		client = centrifuge.NewJsonClient(address, config)
	}
	client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		say("connecting", fields{"code": e.Code, "reason": e.Reason})
	})
	client.OnConnected(func(e centrifuge.ConnectedEvent) {
		say("connected", fields{"client": e.ClientID, "version": e.Version})
	})
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		say("disconnected", fields{"code": e.Code, "reason": e.Reason})
	})
	client.OnError(func(e centrifuge.ErrorEvent) { say("error", fields{"error": e.Error.Error()}) })
	client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		say("subscribed", fields{"channel": e.Channel, "recovered": e.Recovered, "server": true})
	})
	client.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) {
		say("unsubscribed", fields{"channel": e.Channel, "server": true})
	})
	client.OnPublication(func(e centrifuge.ServerPublicationEvent) { publication(e.Channel, e.Publication) })
	return &visit{client}
}

func (v *visit) subscribe(channel string, given []string) error {
	config := centrifuge.SubscriptionConfig{}
	if len(given) > 0 {
		later := &tokens{of: channel, left: given[1:]}
		config.Token = given[0]
		config.GetToken = func(centrifuge.SubscriptionTokenEvent) (string, error) { return later.next() }
	}
	sub, err := v.client.NewSubscription(channel, config)
	if err != nil {
		return err
	}
	sub.OnJoin(func(e centrifuge.JoinEvent) {
		say("join", fields{"channel": channel, "user": e.User, "client": e.Client})
	})
	sub.OnLeave(func(e centrifuge.LeaveEvent) {
		say("leave", fields{"channel": channel, "user": e.User, "client": e.Client})
	})
	sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		say("subscribed", fields{"channel": channel, "recovered": e.Recovered, "server": false})
	})
	sub.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		say("unsubscribed", fields{"channel": channel, "code": e.Code, "server": false})
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) { publication(channel, e.Publication) })
	sub.OnError(func(e centrifuge.SubscriptionErrorEvent) {
		say("error", fields{"channel": channel, "error": e.Error.Error()})
	})
	return sub.Subscribe()
}

// run does what a word says; it returns what is to be said of it, nil where events say it.
func (v *visit) run(ctx context.Context, word string, args []json.RawMessage) (fields, error) {
	text := func(at int) string {
		var found string
		if err := json.Unmarshal(args[at], &found); err != nil {
			panic(err)
		}
		return found
	}
	switch word {
	case "connect":
		return nil, v.client.Connect()
	case "disconnect":
		return nil, v.client.Disconnect()
	case "subscribe":
		given := []string{}
		for at := 1; at < len(args); at++ {
			given = append(given, text(at))
		}
		return nil, v.subscribe(text(0), given)
	case "unsubscribe":
		sub, found := v.client.GetSubscription(text(0))
		if !found {
			return nil, errors.New("no such subscription")
		}
		return nil, sub.Unsubscribe()
	case "publish":
		_, err := v.client.Publish(ctx, text(0), args[1])
		return fields{}, err
	case "history":
		options := []centrifuge.HistoryOption{centrifuge.WithHistoryLimit(-1)}
		if len(args) > 1 {
			var since centrifuge.StreamPosition
			if err := json.Unmarshal(args[1], &since); err != nil {
				return nil, err
			}
			options = append(options, centrifuge.WithHistorySince(&since))
		}
		found, err := v.client.History(ctx, text(0), options...)
		if err != nil {
			return nil, err
		}
		data := []json.RawMessage{}
		for _, pub := range found.Publications {
			data = append(data, pub.Data)
		}
		return fields{"offset": found.Offset, "epoch": found.Epoch, "data": data}, nil
	case "presence":
		found, err := v.client.Presence(ctx, text(0))
		if err != nil {
			return nil, err
		}
		users := []string{}
		for _, info := range found.Clients {
			users = append(users, info.User)
		}
		sort.Strings(users)
		return fields{"users": users}, nil
	case "presence_stats":
		found, err := v.client.PresenceStats(ctx, text(0))
		return fields{"clients": found.NumClients, "users": found.NumUsers}, err
	case "rpc":
		found, err := v.client.RPC(ctx, text(0), args[1])
		return fields{"data": json.RawMessage(found.Data)}, err
	}
	return nil, fmt.Errorf("no such word: %s", word)
}

func listen(v *visit) {
	say("ready", fields{"sdk": "centrifuge-go"})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var line []json.RawMessage
		var word string
		if json.Unmarshal(lines.Bytes(), &line) != nil || json.Unmarshal(line[0], &word) != nil {
			panic("not a word")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		found, err := v.run(ctx, word, line[1:])
		cancel()
		if err != nil {
			say("failed", fields{"word": word, "error": err.Error()})
		} else if found != nil {
			found["word"] = word
			say("done", found)
		}
	}
}

func result(what string, value any, err error) {
	var refused *gocent.Error
	var status gocent.ErrStatusCode
	switch {
	case errors.As(err, &refused):
		say(what, fields{"error": refused.Code})
	case errors.As(err, &status):
		say(what, fields{"error": status.Code})
	case err != nil:
		say(what, fields{"error": err.Error()})
	default:
		say(what, fields{"result": value})
	}
}

func callAll(address, key, user string) {
	const news = "news:gocent"
	ctx := context.Background()
	client := gocent.New(gocent.Config{Addr: address, Key: key})
	first, err := client.Publish(ctx, news, []byte(`{"n":1}`))
	result("publish", first, err)
	broadcast, err := client.Broadcast(ctx, []string{news, "nowhere:a"}, []byte(`{"n":2}`))
	result("broadcast", broadcast, err)
	nowhere, err := client.Publish(ctx, "nowhere:a", []byte(`1`))
	result("publish nowhere", nowhere, err)
	result("subscribe", fields{}, client.Subscribe(ctx, news, user))
	presence, err := client.Presence(ctx, news)
	result("presence", presence, err)
	stats, err := client.PresenceStats(ctx, news)
	result("presence_stats", stats, err)
	history, err := client.History(ctx, news, gocent.WithLimit(gocent.NoLimit))
	result("history", history, err)
	channels, err := client.Channels(ctx, gocent.WithPattern("news:*"))
	result("channels", channels, err)
	info, err := client.Info(ctx)
	result("info", info, err)
	pipe := client.Pipe()
	_ = pipe.AddPublish(news, []byte(`{"n":3}`))
	_ = pipe.AddPresenceStats(news)
	replies, err := client.SendPipe(ctx, pipe)
	result("pipe", len(replies), err)
	result("history_remove", fields{}, client.HistoryRemove(ctx, news))
	result("unsubscribe", fields{}, client.Unsubscribe(ctx, news, user))
	result("disconnect", fields{}, client.Disconnect(ctx, user))
	_, err = gocent.New(gocent.Config{Addr: address, Key: "a-key-that-is-none"}).Info(ctx)
	result("wrong key", nil, err)
}

func main() {
	if os.Args[1] == "api" {
		callAll(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	listen(newVisit(os.Args[1], os.Args[2] == "protobuf", os.Args[3:]))
}
