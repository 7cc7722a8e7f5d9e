// The peer in Go: the centrifuge library with its WebSocket handler, a publish call over HTTP, and nothing else.
// As its documentation recommends for many connections: no compression, write buffers from a pool.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"
)

type publication struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

type batch struct {
	Commands []struct {
		Params publication `json:"params"`
	} `json:"commands"`
}

func credentials(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := centrifuge.SetCredentials(r.Context(), &centrifuge.Credentials{UserID: r.URL.Query().Get("user")})
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

func main() {
	node, err := centrifuge.New(centrifuge.DefaultConfig)
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(ctx context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(e centrifuge.SubscribeEvent, done centrifuge.SubscribeCallback) {
			done(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", credentials(centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		UseWriteBufferPool: true,
		PingInterval:       25 * time.Second,
		CheckOrigin:        func(r *http.Request) bool { return true },
	})))
	publish := func(p publication) {
		if _, err := node.Publish(p.Channel, p.Data); err != nil {
			log.Print(err)
		}
	}
	http.HandleFunc("/publish", func(w http.ResponseWriter, r *http.Request) {
		var p publication
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &p) == nil {
			publish(p)
		}
		w.Write([]byte("{}"))
	})
	http.HandleFunc("/batch", func(w http.ResponseWriter, r *http.Request) {
		var b batch
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &b) == nil {
			for _, c := range b.Commands {
				publish(c.Params)
			}
		}
		w.Write([]byte("{}"))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
