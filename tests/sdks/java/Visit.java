// A visit by centrifuge-java, unmodified: what it is told and what it is answered, one JSON object on each line. It speaks
// as visit.py does, in Protobuf, which is all that it knows.

import io.github.centrifugal.centrifuge.*;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

public class Visit {
    /** A word, a first argument that is a text, and what follows it as it is. */
    private static final Pattern WORDS = Pattern.compile("\\[\"(\\w+)\"(?:, \"([^\"]*)\")?(?:, (.*))?\\]");
    private static final Pattern POSITION = Pattern.compile("\\{\"offset\": (\\d+), \"epoch\": \"([^\"]*)\"\\}");

    private final Client client;

    /** Tokens that are given one after another, until there are none. */
    private static class Tokens {
        private final String of;
        private final Deque<String> left;

        Tokens(String of, List<String> tokens) {
            this.of = of;
            left = new ArrayDeque<>(tokens);
        }

        synchronized void give(TokenCallback callback) {
            say("token", "of", quoted(of), "left", left.size());
            if (left.isEmpty()) {
                callback.Done(new UnauthorizedException(), "");
            } else {
                callback.Done(null, left.remove());
            }
        }
    }

    Visit(String address, List<String> tokens) {
        Tokens later = new Tokens("", tokens.subList(1, tokens.size()));
        Options options = new Options();
        options.setToken(tokens.get(0));
        options.setTokenGetter(new ConnectionTokenGetter() {
            @Override
            public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                later.give(callback);
            }
        });
        options.setMinReconnectDelay(100);
        client = new Client(address, options, new Listener());
    }

    private static String quoted(Object text) {
        return "\"" + String.valueOf(text).replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    private static String text(byte[] octets) {
        return octets == null || octets.length == 0 ? "null" : new String(octets, StandardCharsets.UTF_8);
    }

    /** Says something; `more` are names and values by turns, the values as JSON. */
    private static synchronized void say(String what, Object... more) {
        StringBuilder line = new StringBuilder("{\"what\":" + quoted(what));
        for (int at = 0; at < more.length; at += 2) {
            line.append(',').append(quoted(more[at])).append(':').append(more[at + 1]);
        }
        System.out.println(line.append('}'));
    }

    private static void publication(String channel, long offset, byte[] data, Map<String, String> tags) {
        // Of what was missed it shows none.
        String named = tags == null ? "" : tags.entrySet().stream()
            .map(tag -> quoted(tag.getKey()) + ":" + quoted(tag.getValue())).collect(Collectors.joining(","));
        say("publication", "channel", quoted(channel), "offset", offset, "data", text(data), "tags", "{" + named + "}");
    }

    private interface Shown<T> {
        Object[] of(T result);
    }

    private static <T> ResultCallback<T> answer(String word, Shown<T> shown) {
        return (problem, result) -> {
            if (problem != null) {
                say("failed", "word", quoted(word), "error", quoted(problem));
                return;
            }
            Object[] found = shown.of(result);
            Object[] all = new Object[found.length + 2];
            all[0] = "word";
            all[1] = quoted(word);
            System.arraycopy(found, 0, all, 2, found.length);
            say("done", all);
        };
    }

    /** Returns what a subscription goes by; `rest` is what follows the channel in a line: tokens, or nothing. */
    private static SubscriptionOptions withTokens(String channel, String rest) {
        SubscriptionOptions options = new SubscriptionOptions();
        List<String> given = Pattern.compile("\"([^\"]+)\"").matcher(rest).results().map(found -> found.group(1)).toList();
        if (!given.isEmpty()) {
            Tokens later = new Tokens(channel, given.subList(1, given.size()));
            options.setToken(given.get(0));
            options.setTokenGetter(new SubscriptionTokenGetter() {
                @Override
                public void getSubscriptionToken(SubscriptionTokenEvent event, TokenCallback callback) {
                    later.give(callback);
                }
            });
        }
        return options;
    }

    /** Returns what is asked of a history; `rest` is what follows the channel in a line: a position, or nothing. */
    private static HistoryOptions whatFollows(String rest) {
        HistoryOptions.Builder options = new HistoryOptions.Builder().withLimit(-1);
        Matcher since = POSITION.matcher(rest);
        if (since.matches()) {
            options.withSince(new StreamPosition(Long.parseLong(since.group(1)), since.group(2)));
        }
        return options.build();
    }

    private void run(String word, String channel, byte[] data) throws Exception {
        switch (word) {
            case "connect" -> client.connect();
            case "disconnect" -> client.disconnect();
            case "subscribe" -> client.newSubscription(channel, withTokens(channel, text(data)), new SubListener())
                .subscribe();
            case "unsubscribe" -> client.getSubscription(channel).unsubscribe();
            case "publish" -> client.publish(channel, data, answer(word, done -> new Object[0]));
            case "history" -> client.history(channel, whatFollows(text(data)),
                answer(word, found -> new Object[] {
                    "offset", found.getOffset(), "epoch", quoted(found.getEpoch()),
                    "data", found.getPublications().stream().map(pub -> text(pub.getData())).toList(),
                }));
            case "presence" -> client.presence(channel, answer(word, found -> new Object[] {
                "users", found.getClients().values().stream().map(info -> quoted(info.getUser())).sorted().toList(),
            }));
            case "presence_stats" -> client.presenceStats(channel, answer(word, found -> new Object[] {
                "clients", found.getNumClients(), "users", found.getNumUsers(),
            }));
            case "rpc" -> client.rpc(channel, data, answer(word, found -> new Object[] {"data", text(found.getData())}));
            default -> throw new IllegalArgumentException(word);
        }
    }

    private static class Listener extends EventListener {
        @Override
        public void onConnecting(Client client, ConnectingEvent event) {
            say("connecting", "code", event.getCode(), "reason", quoted(event.getReason()));
        }

        @Override
        public void onConnected(Client client, ConnectedEvent event) {
            say("connected", "client", quoted(event.getClient()));
        }

        @Override
        public void onDisconnected(Client client, DisconnectedEvent event) {
            say("disconnected", "code", event.getCode(), "reason", quoted(event.getReason()));
        }

        @Override
        public void onError(Client client, ErrorEvent event) {
            say("error", "error", quoted(event.getError()));
        }

        @Override
        public void onSubscribed(Client client, ServerSubscribedEvent event) {
            say("subscribed", "channel", quoted(event.getChannel()), "recovered", event.getRecovered(), "server", true);
        }

        @Override
        public void onPublication(Client client, ServerPublicationEvent event) {
            publication(event.getChannel(), event.getOffset(), event.getData(), event.getTags());
        }
    }

    private static class SubListener extends SubscriptionEventListener {
        @Override
        public void onSubscribed(Subscription sub, SubscribedEvent event) {
            say("subscribed", "channel", quoted(sub.getChannel()), "recovered", event.getRecovered(), "server", false);
        }

        @Override
        public void onUnsubscribed(Subscription sub, UnsubscribedEvent event) {
            say("unsubscribed", "channel", quoted(sub.getChannel()), "code", event.getCode(), "server", false);
        }

        @Override
        public void onPublication(Subscription sub, PublicationEvent event) {
            publication(sub.getChannel(), event.getOffset(), event.getData(), event.getTags());
        }

        @Override
        public void onJoin(Subscription sub, JoinEvent event) {
            moved("join", sub, event.getInfo());
        }

        @Override
        public void onLeave(Subscription sub, LeaveEvent event) {
            moved("leave", sub, event.getInfo());
        }

        private static void moved(String how, Subscription sub, ClientInfo who) {
            say(how, "channel", quoted(sub.getChannel()), "user", quoted(who.getUser()), "client", quoted(who.getClient()));
        }

        @Override
        public void onError(Subscription sub, SubscriptionErrorEvent event) {
            say("error", "channel", quoted(sub.getChannel()), "error", quoted(event.getError()));
        }
    }

    public static void main(String[] args) throws Exception {
        Visit visit = new Visit(args[0], Arrays.asList(args).subList(2, args.length));
        say("ready", "sdk", quoted("centrifuge-java"));
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Matcher words = WORDS.matcher(line);
            if (!words.matches()) {
                throw new IllegalArgumentException(line);
            }
            String data = words.group(3) == null ? "null" : words.group(3);
            visit.run(words.group(1), words.group(2), data.getBytes(StandardCharsets.UTF_8));
        }
        System.exit(0);
    }
}
