// A backend in Java: its client of the HTTP API is generated from the API's description. It publishes, notifies, runs a task
// and reads an inbox, and prints what it was told, as JSON.

import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import push.ApiClient;
import push.ApiException;
import push.api.DefaultApi;
import push.model.*;

public class Visit {
    private interface ApiCall {
        void make() throws ApiException;
    }

    private static List<Object> refused(ObjectMapper json, ApiCall call) throws Exception {
        try {
            call.make();
            return List.of(200);
        } catch (ApiException refusal) {
            ErrorResult said = json.readValue(refusal.getResponseBody(), ErrorResult.class);
            return List.of(refusal.getCode(), said.getError().getCode().getValue());
        }
    }

    public static void main(String[] args) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(args[0]);
        client.setRequestInterceptor(request -> request.header("X-API-Key", args[1]));
        ObjectMapper json = client.getObjectMapper();
        DefaultApi push = new DefaultApi(client);
        Map<String, Object> told = new LinkedHashMap<>();

        PublishParams news = new PublishParams().channel("news:today").data(Map.of("headline", "It works"));
        told.put("offset", push.publish(news).getOffset());

        NotifyParams report = new NotifyParams()
            .userId(new BroadcastParamsExcludeUser("42")).data(Map.of("title", "Report")).messageId("report-1")
            .unreadAfter(new NotifyParamsUnreadAfter(0L));
        told.put("online", push.notify(report).getResults().get(0).getOnline());

        NewTask wanted = new NewTask().userId(new AckDoneId(42L)).title("Render").details(Map.of("frames", 10));
        TaskState created = push.createTask(wanted);
        Progress third = new Progress()
            .currentStep(3L).totalSteps(10L).message("frame 3").attempt(created.getAttempt());
        told.put("running", push.reportProgress(created.getTaskId(), third).getPercentage());
        CompleteParams end = new CompleteParams().result(Arrays.asList(1, null, "x"));
        told.put("completed", push.completeTask(created.getTaskId(), end));

        InboxResult inbox = push.readInbox("42", 1, null, null, null);
        told.put("inbox", inbox.getMessages().stream().map(each -> Arrays.asList(each.getType(), each.getReadAt())).toList());
        told.put("more", inbox.getMore());
        InboxReadParams all = new InboxReadParams()
            .userId(new InboxDeleteParamsUserId("42")).epoch(inbox.getEpoch()).upTo(inbox.getOffset());
        told.put("unread", push.markRead(all).getUnread());

        CommandBatch commands = new CommandBatch()
            .addCommandsItem(new BackendCommand().method("publish").params(Map.of("channel", "news:today", "data", 2)))
            .addCommandsItem(new BackendCommand().method("nothing"));
        told.put("batch", push.batch(commands).getReplies().stream()
            .map(reply -> reply.getError() == null ? null : reply.getError().getCode().getValue()).toList());

        told.put("refused", List.of(
            refused(json, () -> push.completeTask(created.getTaskId(), new CompleteParams())),
            refused(json, () -> push.publish(new PublishParams().channel("nowhere:x").data(1)))));
        System.out.println(json.writeValueAsString(told));
    }
}
